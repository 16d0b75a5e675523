"""Installs wheels with known hashes from the machine's package cache, which nobody else writes."""

from __future__ import annotations

import logging
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.environments.failures import explain
from dissmodel_platform.environments.layout import Layout, site_packages
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.scratch import remove_tree, scratch_directory
from dissmodel_platform.environments.seals import altered
from dissmodel_platform.environments.uv import Uv
from dissmodel_platform.environments.wheels import Wheel, pylock_of
from dissmodel_platform.environments.workshop import Room

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Installer:
    """Makes virtual environments in one store; may be shared by threads.

    Attributes
    ----------
    uv : Uv
        Runs the tool.
    layout : Layout
        The store.
    """

    uv: Uv
    layout: Layout

    def install(
        self,
        directory: Path,
        wheels: Sequence[Wheel],
        request: PackageRequest,
        scratch: Path,
        was_damaged: bool = False,
    ) -> None:
        """Make a virtual environment of wheels with known hashes; nothing of theirs runs.

        What somebody changed in the package cache, by writing to a file that is linked from there,
        is fetched anew; all files are compared where the installation replaces a damaged one.

        Parameters
        ----------
        directory : Path
            Is made.
        wheels : sequence of Wheel
            What is installed; none gives an empty environment.
        request : PackageRequest
            How messages call what is installed.
        scratch : Path
            Where the installer works.
        was_damaged : bool, optional
            Whether the installation replaces a damaged one.

        Raises
        ------
        EnvironmentBuildError
            One of its kinds.
        """
        self._sync(directory, wheels, request, scratch)
        changed = altered(site_packages(directory), thorough=was_damaged)
        if changed:
            log.warning("the package cache is damaged; fetched anew: %s", ", ".join(changed))
            self._uv(["cache", "clean", "--quiet", *changed], request, scratch)
            remove_tree(directory)
            self._sync(directory, wheels, request, scratch)

    def _sync(
        self, directory: Path, wheels: Sequence[Wheel], request: PackageRequest, scratch: Path
    ) -> None:
        venv.EnvBuilder(symlinks=True).create(directory)
        with (directory / "pyvenv.cfg").open("a") as settings:
            settings.write("relocatable = true\n")  # uv then starts scripts by relative paths
        if wheels:
            (scratch / "pylock.toml").write_text(pylock_of(wheels))
            python = ["--python", str(directory / "bin" / "python")]
            self._uv_sync(
                ["pip", "sync", *python, "--no-build", "--quiet", "pylock.toml"], request, scratch
            )

    def _uv_sync(self, arguments: Sequence[str], request: PackageRequest, scratch: Path) -> None:
        """Install from the cache alone where it has everything: hashes do not grow old."""
        room = Room(scratch, writable=(self.layout.directory,))
        if self.uv.run([*arguments, "--offline"], room, cache=self.layout.cache).exit_code != 0:
            self._uv(arguments, request, scratch)

    def _uv(self, arguments: Sequence[str], request: PackageRequest, scratch: Path) -> None:
        """Run the installer, which alone may write to the shared cache.

        The whole directory is one mount in its room, since files are linked across it.
        """
        room = Room(scratch, writable=(self.layout.directory,), network=True)
        done = self.uv.run(arguments, room, cache=self.layout.cache)
        if done.exit_code != 0:
            raise explain(request.label, done.output_tail)

    def install_editable(self, directory: Path, request: PackageRequest, scratch: Path) -> None:
        """Have an editable source's own build backend link it into an environment.

        Does nothing for a request without one.

        Raises
        ------
        EnvironmentBuildError
            One of its kinds.
        """
        if request.tree is None or not request.tree.editable:
            return
        python = str(directory / "bin" / "python")
        room = Room(scratch, writable=(request.tree.path,), network=True)
        done = self.uv.run(
            ["pip", "install", "--python", python, "--no-deps", "--quiet", "--editable",
             str(request.tree.path)],
            room,
            cache=scratch / "cache",
        )  # fmt: skip
        if done.exit_code != 0:
            raise explain(request.label, done.output_tail)

    def tidy_cache(self, arguments: Sequence[str]) -> None:
        """Run an ``uv`` command on the package cache; one that fails is told in the log alone."""
        with scratch_directory(self.layout.scratch) as scratch:
            room = Room(scratch, writable=(self.layout.directory,))
            done = self.uv.run(arguments, room, cache=self.layout.cache)
            if done.exit_code != 0:
                log.warning("the package cache cannot be cleaned: %s", done.output_tail)
