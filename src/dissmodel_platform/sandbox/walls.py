"""Which walls stand around model code on this machine, and what follows from it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from dissmodel_platform.errors import SettingsError

Policy = Literal["auto", "require", "off"]


@dataclass(frozen=True)
class Walls:
    """The walls that stand.

    Attributes
    ----------
    standing : tuple of str
        Names of the walls, such as ``namespaces`` and ``landlock``.
    missing : tuple of str
        A sentence for each wall that does not stand.
    """

    standing: tuple[str, ...]
    missing: tuple[str, ...]


def inspect_walls() -> Walls:
    """Say which walls this version puts around model code here.

    Runs have a clean environment, limits and a process group of their own; neither namespaces nor
    Landlock are set up yet, so none is reported as standing.
    """
    return Walls(
        standing=(),
        missing=(
            "Model code is not walled in: it can read what the worker's user can read and reach "
            "the network. Run models of people you trust only.",
        ),
    )


def check_policy(policy: Policy, walls: Walls) -> None:
    """Refuse to run models where the operator insists on walls that do not stand.

    Raises
    ------
    SettingsError
        ``PLATFORM_SANDBOX=require``, and a wall is missing.
    """
    if policy == "require" and walls.missing:
        raise SettingsError(
            "PLATFORM_SANDBOX=require, but a wall is missing on this machine: "
            + " ".join(walls.missing)
        )


def check_exposure(host: str, policy: Policy, walls: Walls) -> None:
    """Refuse to listen beyond this machine while no wall stands.

    Raises
    ------
    SettingsError
        ``host`` is not a loopback address and the operator has not accepted the risk.
    """
    if is_loopback(host) or walls.standing or policy == "off":
        return
    raise SettingsError(
        f"Listening on {host} would let other machines run code here, and no wall stands around "
        f"model code; listen on 127.0.0.1, or set PLATFORM_SANDBOX=off to accept the risk."
    )


def is_loopback(host: str) -> bool:
    """Say whether an address is reachable from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
