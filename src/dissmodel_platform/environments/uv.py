"""The one runner of ``uv`` commands: behind walls, with an environment of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from uv import find_uv_bin

from dissmodel_platform.environments.commands import Finished
from dissmodel_platform.environments.workshop import Room, Workshop
from dissmodel_platform.errors import BuildFailed

_INDEXES = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")
_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "TZ",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    *_INDEXES, "UV_INDEX_STRATEGY", "UV_OFFLINE", "UV_HTTP_TIMEOUT",
)  # fmt: skip

_GIT_CONFIG = Path(__file__).with_name("build.gitconfig").resolve()

PYTHON = str(Path(sys.executable).resolve())
"""The interpreter that environments are made of: that of this process, outside of its own."""


class Uv:
    """Runs ``uv`` and ``git`` in a workshop; may be shared by threads.

    Parameters
    ----------
    workshop : Workshop
        Where commands run.
    """

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self._program = Path(find_uv_bin())

    def run(self, arguments: Sequence[str], room: Room, *, cache: Path) -> Finished:
        """Run one ``uv`` command and wait for it.

        Parameters
        ----------
        arguments : sequence of str
            What follows ``uv``.
        room : Room
            What the command gets; the cache must be writable in it.
        cache : Path
            Package cache.

        Raises
        ------
        BuildFailed
            It went over a limit.
        BuildInterrupted
            The worker is being stopped.
        """
        return self.command([str(self._program), *arguments], room, cache=cache)

    def command(self, command: Sequence[str], room: Room, *, cache: Path) -> Finished:
        """Run any command as `run` does: ``git``, say."""
        readable = (self._program, _GIT_CONFIG, *_local_indexes(), *room.readable)
        environment = self.environment(cache)
        done = self.workshop.run(command, replace(room, readable=readable), environment, cache)
        if done.exit_code is None:
            name = " ".join([Path(command[0]).name, *command[1:3]])
            raise BuildFailed(f"`{name}` {done.limit}.", done.output_tail)
        return done

    def interrupt(self) -> None:
        """End the commands that run now and refuse new ones; for shutting down."""
        self.workshop.commands.interrupt()

    def environment(self, cache: Path) -> Mapping[str, str]:
        """Return the variables of the commands: proxies, certificates and indexes, no secrets."""
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {
            **passed_on,
            "UV_CACHE_DIR": str(cache),
            "UV_LINK_MODE": "hardlink",
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "NO_COLOR": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(_GIT_CONFIG),
            "GIT_TERMINAL_PROMPT": "0",
            "SOURCE_DATE_EPOCH": "946684800",
        }


def index_hosts(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the hosts, with ports, of the package indexes that the operator's variables name."""
    places = (urlsplit(address.rpartition("=")[2]).netloc for address in _index_addresses(environ))
    return tuple(dict.fromkeys(place.rpartition("@")[2] for place in places if place))


def _local_indexes() -> tuple[Path, ...]:
    """Return the directories that the operator's variables name as a place to find packages."""
    paths = (address.removeprefix("file://") for address in _index_addresses(os.environ))
    return tuple(Path(path) for path in paths if path.startswith("/"))


def _index_addresses(environ: Mapping[str, str]) -> list[str]:
    """Return what the operator's variables say, each index for itself."""
    return " ".join(environ.get(name, "").replace(",", " ") for name in _INDEXES).split()
