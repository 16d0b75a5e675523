"""One writer of a mirror at a time, and what a killed one leaves behind.

The lock is taken on an open file (``flock``), and the git commands that write inherit that file:
a git that outlives its killed parent still holds the lock. filelock keeps its descriptor to
itself, so a second writer would start beside the orphan and remove the orphan's lock files. Who
finds the lock held by such an orphan alone ends it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dissmodel_platform.errors import RegistryError
from dissmodel_platform.registry.git_faults import disk_errors
from dissmodel_platform.registry.orphans import end_orphans

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_ORPHANS_EVERY_SECONDS = 1.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


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
        """Descriptors that a writing command must keep open; empty where the lock is not held.

        Raises
        ------
        RegistryError
            Somebody removed the lock's file, and another writer may have begun.
        """
        if self._descriptor is None:
            return ()
        if not self._is_in_place(self._descriptor):
            raise RegistryError(
                f"The lock file {self._path} was removed while the registry's mirror was being "
                "written; keep what cleans up away from it, the next sync goes on from here."
            )
        return (self._descriptor,)

    @contextlib.contextmanager
    def held(self, timeout_seconds: float) -> Iterator[bool]:
        """Hold the lock inside the block; yields whether it was taken just now.

        Raises
        ------
        RegistryError
            Another writer kept it all the time, or the file system knows no locks.
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
        while True:
            with disk_errors():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._wait_for(descriptor, deadline, timeout_seconds)
                if self._is_in_place(descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # of a file that was removed while we waited for it

    def _wait_for(self, descriptor: int, deadline: float, timeout_seconds: float) -> None:
        look_again = 0.0
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                if now >= deadline:
                    raise _busy(timeout_seconds) from None
                if now >= look_again:
                    look_again = now + _ORPHANS_EVERY_SECONDS
                    if ended := end_orphans(descriptor):
                        log.warning("ended what a killed sync had left running: %s", ended)
                time.sleep(_POLL_SECONDS)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                raise RegistryError(
                    f"The file system of {self._path} knows no locks ({error.strerror}); put "
                    "PLATFORM_HOME on a local disk."
                ) from error
            else:
                return

    def _is_in_place(self, descriptor: int) -> bool:
        """Whether the open file is still the one that others find at the path."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False


def remove_leftovers(repository: Path) -> list[str]:
    """Remove what a killed git left in a repository; only for the holder of the lock.

    Its ``*.lock`` files and ``packed-refs.new`` would refuse every later write, its unfinished
    packs fill the disk, and a pack that it marked to be kept would never be tidied.

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
    yield from repository.glob("packed-refs.new")
    yield from (repository / "objects" / "pack").glob("*.keep")
    yield from (repository / "objects" / "pack").glob("tmp_*")
    yield from (repository / "objects" / "pack").glob(".tmp-*")
    yield from (repository / "objects").glob("tmp_*")


def _busy(timeout_seconds: float) -> RegistryError:
    return RegistryError(
        f"Another process has been writing the registry's mirror for {timeout_seconds:g} s; "
        "the next sync tries again."
    )
