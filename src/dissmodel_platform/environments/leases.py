"""Leases: who uses a directory of the store says so by a lock that ends with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class Lease:
    """A lock on one name: shared by those who use what it names, exclusive for who removes it.

    Ends with `release`, with the block, or with the process.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def shared(cls, file: Path) -> Self:
        """Take a lease beside those of others; waits while somebody removes."""
        descriptor = _open(file)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return cls(descriptor)

    @classmethod
    def exclusive(cls, file: Path) -> Self | None:
        """Take a lease that nobody else has; ``None`` at once where somebody does."""
        descriptor = _open(file)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def release(self) -> None:
        """End the lease; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        """Hold the lease for the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the lease."""
        self.release()


def is_leased(file: Path) -> bool:
    """Say whether anybody holds a lease on a name now."""
    if not file.exists():
        return False
    lease = Lease.exclusive(file)
    if lease is None:
        return True
    lease.release()
    return False


def _open(file: Path) -> int:
    try:
        return _open_file(file)
    except FileNotFoundError:  # the machine's directory of locks was deleted
        file.parent.mkdir(parents=True, exist_ok=True)
        return _open_file(file)


def _open_file(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
