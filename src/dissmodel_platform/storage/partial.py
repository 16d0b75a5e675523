"""A local file that appears under its name only when all of its bytes are there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from dissmodel_platform.errors import StorageError
from dissmodel_platform.storage.tasks import begin, see_through
from dissmodel_platform.types import Sha256


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Some bytes that are safely where they belong.

    Parameters
    ----------
    sha256 : Sha256
        Hash of exactly the bytes that were kept.
    size_bytes : int
        How many they are.
    """

    sha256: Sha256
    size_bytes: int


class PartialFile:
    """Takes bytes as they come, hashes them, and names the file when it is asked to.

    Bytes go into a hidden file beside the destination; `keep` renames it, and leaving the ``async
    with`` block without `keep` removes it. After the block callers can assume that the destination
    is either complete or as it was before.

    Parameters
    ----------
    destination : Path
        Where the file is to appear; its directory exists. What stands there is replaced.
    """

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._partial = partial_name(destination)
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._file: BinaryIO | None = None
        self._writing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self._open()  # not in a thread: one that a cancellation leaves behind would keep it open
        return self

    async def write(self, piece: bytes | memoryview) -> None:
        """Append `piece`, which must not change any more.

        Returns as soon as the piece before is written: the caller gets the next one meanwhile.
        """
        await self._written()
        self._writing = begin(self._write(piece))
        self._size_bytes += len(piece)

    async def keep(self, expected: Sha256 | None = None) -> StoredObject:
        """Give the file its name.

        Parameters
        ----------
        expected : Sha256, optional
            What the bytes must hash to.

        Raises
        ------
        StorageError
            They do not, or could not be written.
        """
        assert self._file is not None, "keep inside the `async with` block"
        await self._written()
        stored = StoredObject(Sha256(self._hash.hexdigest()), self._size_bytes)
        check_hash(stored.sha256, expected)
        with disk_errors(self._destination):
            await asyncio.to_thread(self._file.close)
            await asyncio.to_thread(self._partial.replace, self._destination)
        return stored

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await see_through(self._discard())

    def _open(self) -> None:
        with disk_errors(self._destination):
            self._file = self._partial.open("xb")

    async def _write(self, piece: bytes | memoryview) -> None:
        assert self._file is not None, "write inside the `async with` block"
        hashing = begin(asyncio.to_thread(self._hash.update, piece))
        with disk_errors(self._destination):
            await asyncio.to_thread(self._file.write, piece)
        await hashing

    async def _written(self) -> None:
        if self._writing is not None:
            await asyncio.wait({self._writing})
            self._writing.result()

    async def _discard(self) -> None:
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be flushed is thrown away
                await asyncio.to_thread(self._file.close)
        await asyncio.to_thread(self._partial.unlink, missing_ok=True)


def partial_name(destination: Path) -> Path:
    """Return the hidden name beside `destination` that a file has until it is complete."""
    return destination.with_name(f".{uuid.uuid4().hex}.part")


def check_hash(found: Sha256, expected: Sha256 | None) -> None:
    """See that bytes are what they should be.

    Raises
    ------
    StorageError
        They are not.
    """
    if expected is not None and found != expected:
        raise StorageError(
            f"The stored bytes of {expected} are damaged (they hash to {found}); upload the file "
            "or run the experiment again."
        )


@contextlib.contextmanager
def disk_errors(destination: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a sentence about `destination`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{destination.name!r} cannot be written: {error.strerror}. "
            "See that its disk has room and its directory can be written to."
        ) from error
