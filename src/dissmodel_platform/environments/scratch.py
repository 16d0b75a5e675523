"""Directories for work in progress: gone at the end, or swept up after a maker that was killed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

_HELD = ".held"
_LONG = 2_000  # characters of a path: half of what Linux takes


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


def read_made(file: Path, max_bytes: int) -> bytes:
    """Return what a build wrote, which may have put anything in the place of the file.

    Raises
    ------
    OSError
        It is not there, or no plain file: a link to what the build cannot read, or a pipe that
        nobody writes to.
    ValueError
        It is larger than `max_bytes`.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(file))
        content = opened.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{file.name} is larger than {max_bytes} bytes")
    return content


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
    """Remove a directory, also where a build has closed parts of it; what cannot go stays.

    What lies deep is moved up to the top and emptied there, so that it does not matter how deeply a
    build has nested directories: deeper than a path can be long, or Python can recurse.
    """
    name = uuid4().hex
    pending = [directory]
    with contextlib.suppress(FileNotFoundError):
        if directory.is_symlink() or not directory.is_dir():
            directory.unlink()
            return
    for place in pending:  # it grows meanwhile
        for entry in _entries(place):
            with contextlib.suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)  # noqa: PTH108 - hot
                    continue
                below = Path(entry.path)
                if len(entry.path) > _LONG:
                    _open(below)
                    below = below.rename(directory / f"{name}-{len(pending)}")
                pending.append(below)
    for place in reversed(pending):
        with contextlib.suppress(OSError):
            place.rmdir()


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a directory, which is opened for that; nothing where it cannot be."""
    with contextlib.suppress(OSError):
        _open(directory)
        with os.scandir(directory) as entries:
            return list(entries)
    return []


def _open(directory: Path) -> None:
    directory.chmod(0o700)


def size_on_disk(places: Sequence[Path]) -> int:
    """Return what the files below some directories take on the disk, in bytes, each counted once.

    Raises
    ------
    OSError
        A directory cannot be looked into: it is closed, or nested deeper than a path can be long.
    """
    total, linked = 0, set()
    pending = [str(place) for place in places]
    while pending:
        with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        continue
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink == 1 or found.st_ino not in linked:
                        linked.add(found.st_ino)
                        total += found.st_blocks * 512
    return total
