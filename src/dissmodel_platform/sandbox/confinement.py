"""What a walled-in command may see and do, and the command line that holds it to that."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dissmodel_platform.sandbox.bubblewrap import bubblewrap_command
from dissmodel_platform.sandbox.enter import Orders
from dissmodel_platform.sandbox.walls import LANDLOCK, NAMESPACES, SYSTEM, Walls

_ENTER = Path(__file__).with_name("enter.py").resolve()
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_OF_THE_NAMESPACES = ("/tmp", "/dev", "/proc")  # noqa: S108 - fresh ones
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO")


@dataclass(frozen=True)
class Confinement:
    """The room of one command.

    Attributes
    ----------
    readable : tuple of Path
        What it may read and execute beside the system and this interpreter's own installation.
    writable : tuple of Path
        What it may change.
    sockets : tuple of Path
        Unix sockets that it may connect to.
    proxy : Path or None
        Unix socket of the proxy that is its only way to the network; ``None``: no network.
    limits : mapping of str to int
        Limits of each of its processes, by `resource`'s names without ``RLIMIT_``: ``AS`` (address
        space, bytes), ``FSIZE`` (one file, bytes), ``CPU`` (seconds), ``NOFILE``.
    """

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    sockets: tuple[Path, ...] = ()
    proxy: Path | None = None
    limits: Mapping[str, int] = field(default_factory=dict)

    def command(self, walls: Walls, command: Sequence[str], cwd: Path) -> list[str]:
        """Return the command line that runs `command` behind the walls.

        Parameters
        ----------
        walls : Walls
            Those that stand here; where none does, the limits and the proxy's address remain.
        command : sequence of str
            Absolute path of the program, and its arguments.
        cwd : Path
            Where it works: one of its directories, or below one.
        """
        if not sys.platform.startswith("linux"):
            return list(command)
        alone = NAMESPACES in walls.builds
        readable = list(self.all_readable())
        orders = Orders(
            readable=[str(path) for path in readable],
            writable=[*map(str, self.writable), *self.shared_writable(walls.builds)],
            landlock=LANDLOCK in walls.builds,
            proxy=str(self.proxy) if self.proxy else None,
            own_network=alone,
            limits=dict(self.limits),
        )
        interpreter = str(Path(sys.executable).resolve())
        entered = [interpreter, "-I", "-S", str(_ENTER), json.dumps(orders), *command]
        if not alone:
            return entered
        sockets = (*self.sockets, *([self.proxy] if self.proxy else []))
        return [*bubblewrap_command(readable, self.writable, sockets, cwd), *entered]

    def server_command(self, walls: Walls, command: Sequence[str], cwd: Path) -> list[str]:
        """Return the command line of a server of runs, which puts up each run's walls itself.

        Parameters
        ----------
        walls : Walls
            Those that stand here.
        command : sequence of str
            Absolute path of the program, and its arguments.
        cwd : Path
            Where it works: one of its directories, or below one.
        """
        if NAMESPACES in walls.runs:
            readable = [*self.all_readable()]
            return [
                *bubblewrap_command(readable, self.writable, self.sockets, cwd, nests=True),
                *command,
            ]
        return self.command(replace(walls, builds=walls.runs), command, cwd)

    @staticmethod
    def shared_writable(walls: Sequence[str]) -> list[str]:
        """Return what every command may change, given the walls that stand."""
        return list(_OF_THE_NAMESPACES if NAMESPACES in walls else _DEVICES)

    def all_readable(self) -> Iterator[Path]:
        """Yield all that it may read: the system, this interpreter's own files, what is its own."""
        yield from SYSTEM
        yield from (Path(sys.base_prefix), _ENTER)
        yield from (Path(os.environ[name]) for name in _CERTIFICATES if os.environ.get(name))
        yield from self.readable
