"""Ordinary local files, read, hashed and copied without holding up the event loop.

Reading, writing and hashing release the interpreter's lock, so they run in threads and beside one
another: a copy costs what its slowest step costs, and memory holds a few pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import stat
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import BinaryIO

from dissmodel_platform.errors import InvalidInput, StorageError
from dissmodel_platform.storage.partial import (
    StoredObject,
    check_hash,
    disk_errors,
    partial_name,
)
from dissmodel_platform.storage.tasks import begin, see_through
from dissmodel_platform.types import Sha256

PIECE_BYTES = 2 * 1024**2
"""What is read, hashed and sent at a time: large enough that a change of thread or a request costs
little beside it, small enough that a dozen in flight stay below 30 MB."""

_COPY_BUFFER_BYTES = 1024**2
_COPY_BUFFERS = 4


@dataclass(frozen=True)
class OpenFile:
    """An ordinary file that the caller holds open, so that its name may mean another one by now.

    Attributes
    ----------
    descriptor : int
        Open for reading; it is read from its beginning, by one reader at a time.
    name : str
        What messages call it.
    """

    descriptor: int
    name: str


async def read_pieces(path: Path | OpenFile) -> AsyncGenerator[bytes, None]:
    """Read an ordinary file in pieces of `PIECE_BYTES`, always one piece ahead.

    Raises
    ------
    InvalidInput
        There is no such file, or it is a link, a directory or a device: a run's outputs are the
        work of third-party code, and a link in them could name any file of this machine.
    StorageError
        The file cannot be read.
    """
    file = _open_ordinary(path)
    ahead = begin(asyncio.to_thread(file.read, PIECE_BYTES))
    try:
        while piece := await ahead:
            ahead = begin(asyncio.to_thread(file.read, PIECE_BYTES))
            yield piece
    except OSError as error:
        raise StorageError(f"{path.name!r} cannot be read: {error.strerror}.") from error
    finally:
        ahead.cancel()
        await see_through(asyncio.to_thread(file.close))  # waits for a read that goes on


async def hash_file(path: Path | OpenFile) -> StoredObject:
    """Hash an ordinary file; see `read_pieces` for what is refused."""
    digest, size_bytes = hashlib.sha256(), 0
    async with contextlib.aclosing(read_pieces(path)) as pieces:
        async for piece in pieces:
            await asyncio.to_thread(digest.update, piece)
            size_bytes += len(piece)
    return StoredObject(Sha256(digest.hexdigest()), size_bytes)


async def copy_file(
    source: Path | OpenFile, destination: Path, expected: Sha256 | None = None
) -> StoredObject:
    """Copy an ordinary file, which appears at `destination` whole or not at all.

    The copy has two threads of its own, one that reads and writes and one that hashes, and buffers
    that are used again: on two idle cores it takes no longer than hashing alone.

    Parameters
    ----------
    source : Path or OpenFile
        See `read_pieces` for what is refused.
    destination : Path
        Where the copy is to appear; its directory exists. What stands there is replaced.
    expected : Sha256, optional
        What the bytes must hash to.

    Raises
    ------
    InvalidInput
        `source` is not an ordinary file.
    StorageError
        One of the two failed, or the hash is another.
    """
    return await copy_opened(
        lambda: _open_ordinary(source), destination, check=lambda _: None, expected=expected
    )


async def copy_opened(
    open_source: Callable[[], io.BufferedReader],
    destination: Path,
    *,
    check: Callable[[int], None],
    expected: Sha256 | None = None,
) -> StoredObject:
    """Copy what `open_source` opens, as `copy_file` does.

    Parameters
    ----------
    open_source : callable
        Opens the file to read, in a thread; what it raises is passed on.
    destination, expected
        See `copy_file`.
    check : callable
        Called in that thread with the number of bytes of each piece; what it raises ends the copy.
    """
    stop = threading.Event()
    copying = begin(asyncio.to_thread(_copy, open_source, destination, expected, check, stop))
    try:
        await asyncio.wait({copying})
    finally:
        stop.set()
        await see_through(asyncio.wait({copying}))
    return copying.result()


def _copy(
    open_source: Callable[[], io.BufferedReader],
    destination: Path,
    expected: Sha256 | None,
    check: Callable[[int], None],
    stop: threading.Event,
) -> StoredObject:
    partial = partial_name(destination)
    with open_source() as read, disk_errors(destination):
        try:
            with partial.open("xb") as write:
                stored = _pump(read, write, check, stop)
            check_hash(stored.sha256, expected)
            partial.replace(destination)
        finally:
            partial.unlink(missing_ok=True)
    return stored


def _pump(
    read: io.BufferedReader,
    write: BinaryIO,
    check: Callable[[int], None],
    stop: threading.Event,
) -> StoredObject:
    digest, size_bytes = hashlib.sha256(), 0
    buffers = [memoryview(bytearray(_COPY_BUFFER_BYTES)) for _ in range(_COPY_BUFFERS)]
    hashing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "hash") as hasher:
        for buffer in cycle(buffers):
            if len(hashing) == len(buffers):
                hashing.popleft().result()  # until then the buffer is still read
            count = read.readinto(buffer)
            if not count:
                break
            if stop.is_set():
                raise StorageError("The copy was stopped.")
            check(count)
            hashing.append(hasher.submit(digest.update, buffer[:count]))
            write.write(buffer[:count])
            size_bytes += count
    return StoredObject(Sha256(digest.hexdigest()), size_bytes)


def _open_ordinary(path: Path | OpenFile) -> io.BufferedReader:
    if isinstance(path, OpenFile):
        descriptor = os.dup(path.descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.fdopen(descriptor, "rb")
    # O_NONBLOCK: opening a named pipe would otherwise wait for somebody to write to it.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(
            f"{path.name!r} cannot be read as an ordinary file: {error.strerror}. "
            "Links are not followed; give the file itself."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"{path.name!r} is not an ordinary file; give one with bytes in it.")
    return os.fdopen(descriptor, "rb")
