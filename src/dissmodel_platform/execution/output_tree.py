"""The files below a directory that a model wrote to, listed and opened without following anything.

The directory's content is the work of foreign code, and a process of it that lives on may change it
at any moment. So every step goes by descriptors from one directory to the next (openat(2)), no link
is followed, and what was opened is looked at once more: what the caller reads is what was checked.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from dissmodel_platform.errors import ModelFailed

DEEPEST = 64
"""Directories within one another; each is a descriptor of the worker while it is listed."""

_LINK = "is no regular file and was not collected."
_HARD_LINK = (
    "is another name of a file (a hard link) and was not collected; have the model write a copy."
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe would otherwise wait for somebody to write to it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHANGED = (errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENXIO)


@dataclass(frozen=True)
class OutputLimits:
    """What one run may leave behind.

    Attributes
    ----------
    files : int
        Files and directories.
    size_bytes : int
        Of all files together; 0: no limit.
    """

    files: int = 10_000
    size_bytes: int = 0


@dataclass
class Listing:
    """What lies below a directory.

    Attributes
    ----------
    files : list of str
        Names of the regular files, with ``/``, in order.
    refused : dict of str to str
        Names of what is not collected, each with the rest of a sentence that says why.
    """

    files: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


class OutputTree:
    """A run's output directory, held open.

    Parameters
    ----------
    directory : Path
        It, whose parent is trusted.

    Raises
    ------
    ModelFailed
        The run replaced it by something else.
    """

    def __init__(self, directory: Path) -> None:
        try:
            self._root = os.open(directory, _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ModelFailed(
                "The run removed or replaced its own working directory; write below it instead."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._root)

    def list(self, limits: OutputLimits) -> Listing:
        """List everything; takes time in proportion to the limit at most.

        Raises
        ------
        ModelFailed
            There is more than the limits allow, or it cannot be read.
        """
        listing = Listing()
        left = _Allowance(limits)
        self._list(self._root, "", 1, listing, left)
        listing.files.sort()
        listing.refused = dict(sorted(listing.refused.items()))
        return listing

    @contextmanager
    def open(self, name: str) -> Iterator[int]:
        """Open a listed file for reading while the block runs.

        Raises
        ------
        ModelFailed
            It is no longer what it was when it was listed.
        """
        *directories, last = name.split("/")
        place = self._root
        try:
            for directory in directories:
                place, above = _open(directory, _DIRECTORY, place, name), place
                if above != self._root:
                    os.close(above)
            descriptor = _open(last, _FILE, place, name)
        finally:
            if place != self._root:
                os.close(place)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise _changed(name, "it was replaced")
            yield descriptor
        finally:
            os.close(descriptor)

    def _list(
        self, place: int, prefix: str, depth: int, listing: Listing, left: _Allowance
    ) -> None:
        below = []
        with os.scandir(place) as entries:
            for entry in entries:
                left.take_entry()
                name = prefix + entry.name
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError as error:
                    raise _changed(name, "it vanished") from error
                if stat.S_ISDIR(found.st_mode):
                    below.append(entry.name)
                elif not stat.S_ISREG(found.st_mode):
                    listing.refused[name] = _LINK
                elif found.st_nlink > 1:
                    listing.refused[name] = _HARD_LINK
                else:
                    left.take_bytes(found.st_size)
                    listing.files.append(name)
        if below and depth == DEEPEST:
            raise ModelFailed(
                f"The run left more than {DEEPEST} directories within one another; a model must "
                "not nest its outputs so deep."
            )
        for directory in below:
            descriptor = _open(directory, _DIRECTORY, place, prefix + directory)
            try:
                self._list(descriptor, f"{prefix}{directory}/", depth + 1, listing, left)
            finally:
                os.close(descriptor)


class _Allowance:
    """What may still come."""

    def __init__(self, limits: OutputLimits) -> None:
        self._limits = limits
        self._entries = 0
        self._bytes = 0

    def take_entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.files:
            raise ModelFailed(
                f"The run left more than {self._limits.files:,} files and directories; write fewer "
                "(a zip of them, for instance), or ask the operator to raise "
                "PLATFORM_OUTPUT_MAX_FILES."
            )

    def take_bytes(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        if 0 < self._limits.size_bytes < self._bytes:
            raise ModelFailed(
                f"The run left more than {self._limits.size_bytes:,} bytes; write less, or ask "
                "the operator to raise PLATFORM_OUTPUT_MAX_BYTES."
            )


def _open(part: str, flags: int, place: int, name: str) -> int:
    try:
        return os.open(part, flags, dir_fd=place)
    except OSError as error:
        if error.errno in _CHANGED:
            raise _changed(name, error.strerror or "it was replaced") from error
        raise


def _changed(name: str, how: str) -> ModelFailed:
    return ModelFailed(
        f"The output {name!r} cannot be collected ({how}): it was changed after save() had ended, "
        "or may not be read; end what the model starts, and leave its outputs readable."
    )
