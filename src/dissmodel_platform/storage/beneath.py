"""Files below directories that the operator has listed, opened without being led elsewhere.

A path that was checked can lead elsewhere when it is opened a moment later: whoever may write to a
listed directory can put a link in the place of any part of it. So the path is resolved once, and
then walked from the listed directory by descriptors, without following a link at any step: what is
opened lies below the directory, whatever happened in between.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dissmodel_platform.errors import InvalidInput

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe would otherwise wait for somebody to write to it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_beneath(path: Path, directories: Iterable[Path]) -> io.BufferedReader:
    """Open an ordinary file that lies below one of some directories.

    Links are fine as long as they stay below a listed directory.

    Parameters
    ----------
    path : Path
        Absolute path.
    directories : iterable of Path
        Where files may be read.

    Raises
    ------
    InvalidInput
        It lies elsewhere, is not there, is not an ordinary file, or cannot be read.
    """
    root, parts = _place(path, directories)
    *parents, name = parts or (".",)
    with _sentences(path), opened_directory(root, parents) as parent:
        descriptor = os.open(name, _FILE, dir_fd=parent)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InvalidInput(f"{str(path)!r} is not an ordinary file; name one with bytes in it.")
        return os.fdopen(descriptor, "rb")


def names_beside(path: Path, directories: Iterable[Path]) -> list[str]:
    """Return the names in the directory of a path (not of the file that a link leads to).

    Raises
    ------
    InvalidInput
        The directory lies elsewhere, is not there, or cannot be read.
    """
    root, parts = _place(path.parent, directories)
    with (
        _sentences(path),
        opened_directory(root, parts) as descriptor,
        os.scandir(descriptor) as entries,
    ):
        return [entry.name for entry in entries]


@contextmanager
def opened_directory(root: Path, parts: Iterable[str]) -> Iterator[int]:
    """Open a directory below another one, following no link on the way; gives its descriptor.

    Parameters
    ----------
    root : Path
        Where to begin; no link itself.
    parts : iterable of str
        Names from there on, none of them ``..``.

    Raises
    ------
    OSError
        There is no such directory, or a link stands in its place.
    """
    descriptor = os.open(root, _DIRECTORY)
    try:
        for part in parts:
            following = os.open(part, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = following
        yield descriptor
    finally:
        os.close(descriptor)


def _place(path: Path, directories: Iterable[Path]) -> tuple[Path, tuple[str, ...]]:
    """Return the listed directory that a path lies below, and the way from there."""
    shown = str(path)
    try:
        resolved = path.resolve()
        roots = [directory.resolve() for directory in directories]
    except (OSError, ValueError, RuntimeError) as error:  # no path at all, or a circle of links
        raise InvalidInput(f"The path {shown!r} cannot be read: {error}.") from error
    root = next((root for root in roots if resolved.is_relative_to(root)), None)
    if root is None or not path.is_absolute():
        raise InvalidInput(
            f"The server does not read its own path {shown!r}; upload the file with POST "
            f"/data/upload, or ask the operator to list its directory in "
            f"PLATFORM_INPUT_DIRECTORIES."
        )
    return root, resolved.relative_to(root).parts


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a sentence about the path that was named."""
    try:
        yield
    except FileNotFoundError as error:
        message = f"There is no file {str(path)!r} on the server; correct the path."
        raise InvalidInput(message) from error
    except OSError as error:
        raise InvalidInput(
            f"The path {str(path)!r} cannot be read: {error.strerror}; correct the path, or see "
            f"that the platform's user may read it."
        ) from error
