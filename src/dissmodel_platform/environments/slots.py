"""How many builds run on one machine at the same time, whichever process or thread does them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dissmodel_platform.environments.leases import Lease

_LOOK_SECONDS = 0.2


@contextmanager
def build_slot(locks: Path, count: int, check: Callable[[], None]) -> Iterator[None]:
    """Wait for one of so many places, and hold it for the block.

    A place is free again when the process that had it has ended, however it did.

    Parameters
    ----------
    locks : Path
        The machine's directory of locks.
    count : int
        Places; where processes differ, each looks at its own number of them.
    check : callable
        Raises where the process is being stopped.
    """
    with _wait(locks, count, check):
        yield


def _wait(locks: Path, count: int, check: Callable[[], None]) -> Lease:
    while True:
        check()
        for number in range(count):
            lease = Lease.exclusive(locks / f"slot-{number}.use")
            if lease is not None:
                return lease
        time.sleep(_LOOK_SECONDS)
