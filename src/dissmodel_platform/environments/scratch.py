"""Directories for work in progress: gone at the end, or swept up after a maker that was killed."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
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
            remove_tree(directory)
            held.unlink(missing_ok=True)


def replace_directory(final: Path, made: Path, scratch: Path) -> None:
    """Put a finished directory in its place; what is there goes to the scratch directory.

    Where another did the same meanwhile, theirs stays.
    """
    with contextlib.suppress(FileNotFoundError):
        final.rename(scratch / uuid4().hex)
    try:
        made.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def sweep(parent: Path) -> None:
    """Remove what processes left that have ended."""
    for left in parent.iterdir():
        held = left.with_suffix(_HELD)
        with contextlib.suppress(Timeout, OSError), FileLock(held, timeout=0):
            remove_tree(left.with_suffix(""))
            held.unlink(missing_ok=True)


def remove_tree(directory: Path) -> None:
    """Remove a directory, also where a build has closed parts of it; what cannot go stays."""
    shutil.rmtree(directory, onerror=_open_and_remove)


def _open_and_remove(remove: Callable[..., object], path: str, _: object) -> None:
    with contextlib.suppress(OSError):
        for place in (Path(path).parent, Path(path)):
            if place.is_dir() and not place.is_symlink():
                place.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove(path)
