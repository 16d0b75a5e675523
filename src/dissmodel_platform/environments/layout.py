"""What lies where in the directory of a machine's environments."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from dissmodel_platform.environments.seals import MARKER

_USE_SECONDS = 60.0


@dataclass(frozen=True)
class Layout:
    """The parts of a store, on one file system.

    Attributes
    ----------
    directory : Path
        Holds all of them.
    """

    directory: Path

    @property
    def environments(self) -> Path:
        """One directory for each environment, named by its key."""
        return self.directory / "environments"

    @property
    def libraries(self) -> Path:
        """One directory for each set of libraries."""
        return self.directory / "libraries"

    @property
    def bytecode(self) -> Path:
        """One directory for each wheel's compiled modules."""
        return self.directory / "bytecode"

    @property
    def wheels(self) -> Path:
        """The wheels that were built for locks, by SHA-256."""
        return self.directory / "wheels"

    @property
    def cache(self) -> Path:
        """The installer's package cache."""
        return self.directory / "cache"

    @property
    def scratch(self) -> Path:
        """Work in progress."""
        return self.directory / "scratch"

    @property
    def locks(self) -> Path:
        """Locks and leases."""
        return self.directory / "locks"

    @property
    def building(self) -> Path:
        """The lease of everybody who builds on this machine."""
        return self.locks / "building.use"

    @property
    def collecting(self) -> Path:
        """The lease of the one who removes."""
        return self.locks / "collecting.use"

    def lease(self, key: str) -> Path:
        """Return the lease of those who use an environment."""
        return self.locks / f"{key}.use"

    def make(self) -> None:
        """Make what is missing: all of it may be deleted at any time."""
        for path in (
            self.environments, self.libraries, self.bytecode, self.wheels, self.cache,
            self.scratch, self.locks,
        ):  # fmt: skip
            path.mkdir(parents=True, exist_ok=True)

    def faults(self) -> list[str]:
        """Say what a store costs here beyond what it should; nothing on one good file system.

        A file is linked from the package cache to each of the other parts.
        """
        found = []
        for place in (self.environments, self.libraries, self.bytecode, self.wheels, self.scratch):
            error = _why_no_link(self.cache, place)
            if error is None:
                continue
            found.append(
                f"Files cannot be linked from {self.cache} to {place} ({error}): each environment "
                "takes its whole size on the disk, often hundreds of megabytes, and the time to "
                f"copy it; keep all of {self.directory} on one file system that has hard links."
            )
            if self.scratch.stat().st_dev != place.stat().st_dev:
                found.append(
                    f"{place} is on another file system than {self.scratch}: nothing that is built "
                    "can be put there, so every build will fail."
                )
        return found


def _why_no_link(source: Path, target: Path) -> str | None:
    """Try a link; returns the reason where there is none."""
    name = f".link-{uuid4().hex}"
    try:
        (source / name).touch()
        (target / name).hardlink_to(source / name)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        for place in (source, target):
            with suppress(OSError):
                (place / name).unlink(missing_ok=True)
    return None


def site_packages(directory: Path) -> Path:
    """Return the directory of the packages of a virtual environment."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return directory / "lib" / version / "site-packages"


def note_use(directory: Path) -> None:
    """Keep when an environment was used last, as its marker's time; exact to a minute."""
    marker = directory / MARKER
    with suppress(FileNotFoundError):
        if abs(time.time() - marker.stat().st_mtime) > _USE_SECONDS:
            os.utime(marker)
