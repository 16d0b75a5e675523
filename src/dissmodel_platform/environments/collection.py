"""Keeps the environments of a machine below a size: what was used longest ago goes first.

Whatever is removed leaves its place by a rename and is deleted afterwards, so that nobody who is
killed leaves half an environment. What is in use, being built or was wanted just now stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.environments.layout import Layout
from dissmodel_platform.environments.leases import Lease
from dissmodel_platform.environments.scratch import scratch_directory
from dissmodel_platform.environments.seals import MARKER
from dissmodel_platform.environments.survey import Survey, installed, sizes, unnamed

log = logging.getLogger(__name__)

YOUNG_SECONDS = 120.0
"""Environments that were used since then stay: the last use is known to a minute only."""

_YOUNG_WHEEL_SECONDS = 3_600.0  # a wheel may wait so long for the build that it was made for
_MUCH_IDLE = 0.1  # of the limit: the package cache is emptied then, whatever environments go
_PATIENCE_SECONDS = 5.0
_LOOK_SECONDS = 0.1

RunUv = Callable[[Sequence[str]], object]


@dataclass(frozen=True)
class Collected:
    """What a collection has done.

    Attributes
    ----------
    environments : tuple of str
        Keys of those that were removed.
    before_bytes, after_bytes : int
        Size of the store.
    """

    environments: tuple[str, ...]
    before_bytes: int
    after_bytes: int

    @property
    def removed_count(self) -> int:
        """How many environments were removed."""
        return len(self.environments)


@dataclass(frozen=True)
class Collector:
    """Removes what is used least.

    Attributes
    ----------
    layout : Layout
        The store.
    run_uv : callable
        Runs an ``uv`` command on the package cache.
    check : callable
        Raises where the process is being stopped.
    """

    layout: Layout
    run_uv: RunUv
    check: Callable[[], None]

    def collect(self, max_bytes: int) -> Collected | None:
        """Bring the store below a size; ``None`` where another process does it now.

        Environments go first, with the wheels in the package cache that only they have; then
        libraries, bytecode and built wheels that no environment names; then what only the package
        cache holds, which costs the next builds a download.
        """
        lease = Lease.exclusive(self.layout.collecting)
        if lease is None:
            return None
        with lease:
            survey = Survey.take(self.layout)
            before = after = survey.total_bytes
            removed: list[str] = []
            if before > max_bytes:
                removed = self._remove_environments(survey, max_bytes)
                self._remove_unnamed()
                after = self._clean_cache(max_bytes)
            return Collected(tuple(removed), before, after)

    def _remove_environments(self, survey: Survey, max_bytes: int) -> list[str]:
        removed: list[str] = []
        wheels: set[str] = set()
        idle = survey.idle_bytes if survey.idle_bytes > max_bytes * _MUCH_IDLE else 0
        survey = survey.without(unnamed(self.layout))
        for entry in installed(self.layout):
            if survey.total_bytes - idle <= max_bytes:
                break
            self.check()
            if not self._remove_environment(entry.directory):
                continue
            log.info("environment %s is removed to make room", entry.key)
            removed.append(entry.key)
            wheels |= set(entry.wheels)
            survey = survey.without([entry.directory, *unnamed(self.layout)])
        wheels -= {name for entry in installed(self.layout) for name in entry.wheels}
        if wheels:
            self.run_uv(["cache", "clean", "--quiet", *sorted(wheels)])
        return removed

    def _remove_environment(self, directory: Path) -> bool:
        """Remove an environment unless it is in use or was used just now."""
        with scratch_directory(self.layout.scratch) as scratch:
            lease = Lease.exclusive(self.layout.lease(directory.name))
            if lease is None:
                return False
            with lease:
                if _age(directory / MARKER, directory) < YOUNG_SECONDS:
                    return False
                return _move(directory, scratch)

    def _remove_unnamed(self) -> None:
        """Remove what no environment names; not while one is built that may be about to."""
        with scratch_directory(self.layout.scratch) as scratch:
            lease = self._wait_for_builders()
            if lease is None:
                log.info("unused libraries stay for now: environments are being built")
                return
            with lease:
                for path in unnamed(self.layout):
                    if path.parent != self.layout.wheels or _age(path) >= _YOUNG_WHEEL_SECONDS:
                        _move(path, scratch)

    def _wait_for_builders(self) -> Lease | None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (lease := Lease.exclusive(self.layout.building)) is None:
            self.check()
            if time.monotonic() > deadline:
                return None
            time.sleep(_LOOK_SECONDS)
        return lease

    def _clean_cache(self, max_bytes: int) -> int:
        """Empty the package cache as far as need be; returns the size of the store then."""
        survey = Survey.take(self.layout)
        for options in ([], ["--ci"]):
            if survey.total_bytes <= max_bytes:
                break
            self.check()
            self.run_uv(["cache", "prune", "--quiet", *options])
            survey.cache = sizes(self.layout.cache)
        return survey.total_bytes


def _age(*marks: Path) -> float:
    """Return the seconds since the first of these that exists was changed."""
    for mark in marks:
        with suppress(FileNotFoundError):
            return time.time() - mark.stat().st_mtime
    return 0.0


def _move(path: Path, scratch: Path) -> bool:
    """Take a directory from its place; the scratch directory is deleted later."""
    try:
        path.rename(scratch / path.name)
    except FileNotFoundError:
        return False
    return True
