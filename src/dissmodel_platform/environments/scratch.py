"""Directories for work in progress: gone at the end, or swept up after a maker that was killed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

_HELD = ".held"


@contextlib.contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """Make a directory for the time of the block.

    The lock that says it is in use lies beside it, as the work may remove everything.

    Parameters
    ----------
    parent : Path
        Where; is made if need be.
    """
    parent.mkdir(parents=True, exist_ok=True)
    directory = parent / uuid4().hex
    held = directory.with_suffix(_HELD)
    with FileLock(held):
        try:
            directory.mkdir(mode=0o700)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            held.unlink(missing_ok=True)


def sweep(parent: Path) -> None:
    """Remove what processes left that have ended."""
    for held in parent.glob(f"*{_HELD}"):
        with contextlib.suppress(Timeout, OSError), FileLock(held, timeout=0):
            shutil.rmtree(held.with_suffix(""), ignore_errors=True)
            held.unlink(missing_ok=True)
