"""Where foreign tools and foreign code work: behind walls, within bounds, with one way out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dissmodel_platform.environments.commands import Bounds, Commands, Finished
from dissmodel_platform.sandbox.confinement import Confinement
from dissmodel_platform.sandbox.proxy import Destinations, Proxy, upstream_of
from dissmodel_platform.sandbox.walls import Walls


@dataclass(frozen=True)
class Room:
    """What one command gets beside the system.

    Attributes
    ----------
    scratch : Path
        Its working directory, which it may change; holds its ``home`` and ``tmp``.
    readable, writable : tuple of Path
        Further paths.
    network : bool
        Whether the proxy is there.
    sockets : tuple of Path
        Unix sockets that it may connect to.
    variables : mapping of str to str
        Environment variables of its own.
    """

    scratch: Path
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    network: bool = False
    sockets: tuple[Path, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SshAccess:
    """What git shows to an ssh host that asks who is there.

    Attributes
    ----------
    key : Path or None
        Private key; ``None``: the keys of the operator's agent.
    known_hosts : Path or None
        Keys of the hosts that are trusted; ``None``: the user's own file.
    """

    key: Path | None = None
    known_hosts: Path | None = None


@dataclass
class Workshop:
    """Runs commands; may be shared by threads.

    Parameters
    ----------
    walls : Walls
        Those that stand here.
    bounds : Bounds
        Limits of each command.
    destinations : Destinations
        Where the network leads.
    ssh : SshAccess
        For sources behind a key.
    """

    walls: Walls
    bounds: Bounds
    destinations: Destinations = field(default_factory=Destinations)
    ssh: SshAccess = SshAccess()

    def __post_init__(self) -> None:
        """Make the runner of commands."""
        self.commands = Commands(self.bounds)

    def run(
        self,
        command: Sequence[str],
        room: Room,
        environment: Mapping[str, str],
        cache: Path | None = None,
        timeout_seconds: float | None = None,
    ) -> Finished:
        """Run one command and wait for it; nothing of it is left afterwards, behind namespaces.

        Parameters
        ----------
        command : sequence of str
            Absolute path of the program, and its arguments.
        room : Room
            What it gets.
        environment : mapping of str to str
            Its variables; it has a home and a directory for temporary files besides.
        cache : Path, optional
            A package cache that it fills, which counts as its own room.
        timeout_seconds : float, optional
            A shorter limit than that of the bounds.

        Raises
        ------
        BuildInterrupted
            The worker is being stopped.
        OSError
            The scratch directory cannot be made ready.
        """
        home, temporary = room.scratch / "home", room.scratch / "tmp"
        for directory in (home, temporary):
            directory.mkdir(exist_ok=True)
        with self._proxy(room.network) as proxy:
            confinement = Confinement(
                readable=room.readable,
                writable=(room.scratch, *room.writable),
                sockets=room.sockets,
                proxy=proxy.socket if proxy else None,
                limits=self._limits(),
            )
            done = self.commands.run(
                confinement.command(self.walls, command, room.scratch),
                cwd=room.scratch,
                environment={
                    **environment,
                    **room.variables,
                    "HOME": str(home),
                    "TMPDIR": str(temporary),
                },
                scratch=room.scratch,
                cache=cache,
                timeout_seconds=timeout_seconds,
            )
        refused = proxy.refused if proxy else []
        if not refused:
            return done
        told = "\n".join([done.output_tail, *(f"refused: {reason}" for reason in refused)])
        return Finished(done.exit_code, told, done.limit)

    def _limits(self) -> dict[str, int]:
        """Return the limits of each process; a file with holes counts as if it had none."""
        limits = {"AS": self.bounds.memory_bytes, "FSIZE": self.bounds.disk_bytes}
        return {name: value for name, value in limits.items() if value}

    @contextlib.contextmanager
    def _proxy(self, wanted: bool) -> Iterator[Proxy | None]:
        if not wanted:
            yield None
            return
        with Proxy(self.destinations, upstream_of(os.environ)) as proxy:
            yield proxy
