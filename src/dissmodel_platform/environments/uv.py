"""The one runner of ``uv`` commands: bounded in time and output, with an environment of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from dissmodel_platform.environments.commands import Commands
from dissmodel_platform.errors import BuildFailed

_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "TZ",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
    "UV_INDEX_STRATEGY", "UV_OFFLINE", "UV_HTTP_TIMEOUT",
)  # fmt: skip


@dataclass(frozen=True)
class UvResult:
    """How a command ended: exit code, and the last bytes of what it printed."""

    exit_code: int
    output_tail: str


class Uv:
    """Runs ``uv`` with its cache under the platform's own directory; may be shared by threads.

    Parameters
    ----------
    cache : Path
        Package cache; on the environments' file system, so that files are linked.
    home : Path
        Home directory of the commands: an empty one, so that no user configuration counts.
    timeout_seconds : float
        Wall-clock limit of one command.
    """

    def __init__(self, cache: Path, home: Path, *, timeout_seconds: float) -> None:
        self._cache = cache
        self._home = home
        self.commands = Commands(timeout_seconds=timeout_seconds)

    def run(self, arguments: Sequence[str], *, cwd: Path) -> UvResult:
        """Run one command and wait for it; after this, nothing of its process group is left.

        Raises
        ------
        BuildFailed
            The time limit is over.
        BuildInterrupted
            The worker is being stopped.
        """
        done = self.commands.run(
            [find_uv_bin(), *arguments], cwd=cwd, environment=self.environment()
        )
        if done.exit_code is None:
            raise BuildFailed(
                f"`uv {arguments[0]} {arguments[1]}` did not end within "
                f"{self.commands.timeout_seconds:g} s; raise PLATFORM_BUILD_TIMEOUT_SECONDS if the "
                f"package needs longer.",
                done.output_tail,
            )
        return UvResult(done.exit_code, done.output_tail)

    def interrupt(self) -> None:
        """End the commands that run now and refuse new ones; for shutting down."""
        self.commands.interrupt()

    def environment(self) -> Mapping[str, str]:
        """Return the variables of the commands: proxies, certificates and indexes, no secrets."""
        self._home.mkdir(parents=True, exist_ok=True)
        git_config = self._home / "gitconfig"
        if not git_config.exists():
            git_config.write_text("[safe]\n\tdirectory = *\n")
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {
            **passed_on,
            "HOME": str(self._home),
            "UV_CACHE_DIR": str(self._cache),
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "NO_COLOR": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(git_config),
            "GIT_TERMINAL_PROMPT": "0",
            "SOURCE_DATE_EPOCH": "946684800",
        }
