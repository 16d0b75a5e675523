"""Which walls stand around other people's code on this machine, and what follows from it."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dissmodel_platform.errors import SettingsError
from dissmodel_platform.sandbox.bubblewrap import why_no_namespaces
from dissmodel_platform.sandbox.enter import landlock_abi, missing_rights

Policy = Literal["auto", "require", "off"]

NAMESPACES = "namespaces"
"""A file system, processes and network of a command's own."""

LANDLOCK = "landlock"
"""Rules on files, TCP and signals that a process gives itself and all it starts."""

SYSTEM = tuple(
    Path(path)
    for path in (
        "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
        "/etc/alternatives", "/etc/ca-certificates", "/etc/crypto-policies", "/etc/group",
        "/etc/host.conf", "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
        "/etc/localtime", "/etc/magic", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/passwd",
        "/etc/pki/ca-trust", "/etc/pki/tls/cert.pem", "/etc/pki/tls/certs",
        "/etc/pki/tls/openssl.cnf", "/etc/protocols", "/etc/services", "/etc/ssl/cert.pem",
        "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
    )
)  # fmt: skip
"""What programs, compilers, certificates and name look-ups need; nothing of an operator's own, such
as the private keys that lie beside certificates."""


@dataclass(frozen=True)
class Walls:
    """The walls that stand.

    Attributes
    ----------
    builds : tuple of str
        Names of those around resolving and building packages.
    runs : tuple of str
        Names of those around model runs.
    missing : tuple of str
        A sentence for each wall that does not stand, and for each hole in one.
    """

    builds: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@functools.cache
def inspect_walls(policy: Policy = "auto") -> Walls:
    """Try out which walls can be put up here; the answer holds while this process lives.

    Parameters
    ----------
    policy : {'auto', 'require', 'off'}
        With ``off`` none is put up.
    """
    runs = (
        "Model runs are not walled in: they can read what the worker's user can read and reach the "
        "network. Run models of people you trust only."
    )
    if policy == "off":
        return Walls(missing=("No walls around builds: PLATFORM_SANDBOX=off.", runs))
    why_not = why_no_namespaces(SYSTEM)
    abi = landlock_abi()
    builds = ([] if why_not else [NAMESPACES]) + ([LANDLOCK] if abi else [])
    missing = []
    if why_not:
        missing = [f"No namespaces around builds: {why_not}."]
    if not abi:
        missing += [f"No Landlock around builds: {hole}." for hole in missing_rights(abi)]
    elif why_not:  # else they close what Landlock leaves open
        missing += [f"Landlock around builds has a hole: {hole}." for hole in missing_rights(abi)]
    return Walls(tuple(builds), (), (*missing, runs))


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
    """Refuse to listen beyond this machine while no wall stands around runs.

    Raises
    ------
    SettingsError
        ``host`` is not a loopback address and the operator has not accepted the risk.
    """
    if is_loopback(host) or walls.runs or policy == "off":
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
