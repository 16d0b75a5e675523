"""One writer of a mirror at a time, and what a killed one leaves behind.

The lock is taken on an open file (``flock``), and the git commands that write inherit that file:
a git that outlives its killed parent still holds the lock. filelock keeps its descriptor to
itself, so a second writer would start beside the orphan and remove the orphan's lock files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dissmodel_platform.errors import RegistryError
from dissmodel_platform.registry.git_faults import disk_errors

_POLL_SECONDS = 0.05


class MirrorLock:
    """Lock of one mirror, across threads and processes of one host; re-entrant.

    Parameters
    ----------
    path : Path
        File beside the mirror; it stays when the lock is given back.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.RLock()
        self._depth = 0
        self._descriptor: int | None = None

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors that a writing command must keep open; empty where the lock is not held."""
        return () if self._descriptor is None else (self._descriptor,)

    @contextlib.contextmanager
    def held(self, timeout_seconds: float) -> Iterator[bool]:
        """Hold the lock inside the block; yields whether it was taken just now.

        Raises
        ------
        RegistryError
            Another writer kept it all the time.
        """
        deadline = time.monotonic() + timeout_seconds
        if not self._threads.acquire(timeout=timeout_seconds):
            raise _busy(timeout_seconds)
        try:
            is_outermost = self._depth == 0
            if is_outermost:
                self._descriptor = self._take(deadline, timeout_seconds)
            self._depth += 1
            try:
                yield is_outermost
            finally:
                self._depth -= 1
                if self._depth == 0 and self._descriptor is not None:
                    os.close(self._descriptor)
                    self._descriptor = None
        finally:
            self._threads.release()

    def _take(self, deadline: float, timeout_seconds: float) -> int:
        with disk_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise _busy(timeout_seconds) from None
                    time.sleep(_POLL_SECONDS)
                else:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise


def remove_leftovers(repository: Path) -> list[str]:
    """Remove what a killed git left in a repository; only for the holder of the lock.

    Its ``*.lock`` files would refuse every later write, and its unfinished packs fill the disk.

    Returns
    -------
    list of str
        What was removed, relative to the repository.
    """
    removed = []
    for path in _leftovers(repository):
        if not path.is_dir():
            path.unlink(missing_ok=True)
            removed.append(str(path.relative_to(repository)))
    return removed


def _leftovers(repository: Path) -> Iterator[Path]:
    for directory in (repository, repository / "objects" / "info", repository / "info"):
        yield from directory.glob("*.lock")
    yield from (repository / "refs").rglob("*.lock")
    yield from repository.glob("gc.pid")
    yield from (repository / "objects" / "pack").glob("tmp_*")
    yield from (repository / "objects" / "pack").glob(".tmp-*")
    yield from (repository / "objects").glob("tmp_*")


def _busy(timeout_seconds: float) -> RegistryError:
    return RegistryError(
        f"Another process has been writing the registry's mirror for {timeout_seconds:g} s; "
        "the next sync tries again."
    )
