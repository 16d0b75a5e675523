"""One upload to a bucket: pieces go in, and the object is there whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path
from typing import Any

import obstore

from dissmodel_platform.errors import StorageError, UploadTooLarge
from dissmodel_platform.storage.backend import Backend, translated
from dissmodel_platform.storage.files import PIECE_BYTES, OpenFile, read_pieces
from dissmodel_platform.storage.partial import StoredObject
from dissmodel_platform.storage.tasks import begin, see_through
from dissmodel_platform.types import Sha256

# S3 takes 10,000 parts of 5 MiB at least
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
_PART_BYTES = 8 * 1024**2
_MAX_PARTS = 9_000
_UNKNOWN_BYTES = 128 * 1024**3
_BYTES_IN_FLIGHT = 24 * 1024**2
_ABORT_SECONDS = 10.0


class _BrokenOff(Exception):
    """Makes obstore abort the upload and remove its parts."""


async def in_pieces(
    chunks: AsyncIterable[bytes], max_bytes: int | None
) -> AsyncGenerator[bytes, None]:
    """Join small chunks, as a network brings them, to pieces of at least `PIECE_BYTES`.

    Raises
    ------
    UploadTooLarge
        More than `max_bytes` came.
    """
    joined: list[bytes] = []
    joined_bytes = total_bytes = 0
    async for chunk in chunks:
        total_bytes += len(chunk)
        if max_bytes is not None and total_bytes > max_bytes:
            raise UploadTooLarge(
                f"The file is larger than the {max_bytes} bytes allowed here; send a smaller one, "
                "or ask the operator to raise PLATFORM_MAX_UPLOAD_BYTES."
            )
        joined.append(chunk)
        joined_bytes += len(chunk)
        if joined_bytes >= PIECE_BYTES:
            yield joined[0] if len(joined) == 1 else b"".join(joined)
            joined, joined_bytes = [], 0
    if joined_bytes:
        yield b"".join(joined)


class Tally:
    """Hashes and counts the pieces that pass through."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    @property
    def stored(self) -> StoredObject:
        """Hash and size of what has passed."""
        return StoredObject(Sha256(self._hash.hexdigest()), self._size_bytes)

    async def passing(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Hand on `pieces`; each is hashed in a thread while it is sent."""
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                hashing = begin(asyncio.to_thread(self._hash.update, piece))
                self._size_bytes += len(piece)
                yield piece
                await hashing


async def read_unchanged(path: Path | OpenFile, known: StoredObject) -> AsyncGenerator[bytes, None]:
    """Read a file that was hashed before, for `upload`.

    Raises
    ------
    StorageError
        It is no longer the same; raised instead of the last piece, so that no upload completes.
    """
    tally = Tally()
    held_back: bytes | None = None
    async with contextlib.aclosing(tally.passing(read_pieces(path))) as pieces:
        async for piece in pieces:
            if held_back is not None:
                yield held_back
            held_back = piece
    if tally.stored != known:
        raise StorageError(f"{path.name!r} changed while it was stored; try again.")
    if held_back is not None:
        yield held_back


async def upload(
    backend: Backend, key: str, pieces: AsyncGenerator[bytes, None], size_bytes: int | None
) -> None:
    """Write `pieces` to `key`.

    `pieces` is drawn in the caller's own task, so that a request's stream can be passed in, and a
    queue of one carries them to obstore. When anything goes wrong obstore is told through that
    queue, and aborts; a cancelled `put_async` would leave the parts of an S3 upload in the bucket,
    unseen and paid for. (Those of a killed process stay: give the bucket a lifecycle rule,
    ``AbortIncompleteMultipartUpload``.)

    Parameters
    ----------
    backend : Backend
        Where to.
    key : str
        Name of the new object; what has that name already is replaced.
    pieces : async generator of bytes
        What to write; closed at the end, also when it was not drawn to its end.
    size_bytes : int or None
        How much that will be, at most; sets the size of the parts.

    Raises
    ------
    StorageError
        The store refused or broke off.
    Exception
        Whatever `pieces` raises, unchanged. In both cases there is no object afterwards.
    """
    async with contextlib.aclosing(pieces):
        first = await anext(pieces, b"")
        second = await anext(pieces, None)
        if second is None:  # one request instead of three
            with translated(f"write to {backend.shown}"):
                await obstore.put_async(backend.store, key, first, use_multipart=False)
            return
        part_bytes = max(_PART_BYTES, (size_bytes or _UNKNOWN_BYTES) // _MAX_PARTS)
        parts = _Parts(backend, key, part_bytes)
        try:
            await parts.send(first)
            await parts.send(second)
            async for piece in pieces:
                await parts.send(piece)
            await parts.finish()
        except BaseException:
            await see_through(parts.abort())
            raise


class _Parts:
    """An upload in several parts that can be told to stop."""

    def __init__(self, backend: Backend, key: str, part_bytes: int) -> None:
        self._shown = backend.shown
        self._queue: asyncio.Queue[bytes | _BrokenOff | None] = asyncio.Queue(1)
        self._put = begin(
            obstore.put_async(
                backend.store,
                key,
                self._drawn(),
                chunk_size=part_bytes,
                max_concurrency=max(2, _BYTES_IN_FLIGHT // part_bytes),
            )
        )

    async def _drawn(self) -> AsyncGenerator[bytes, None]:
        while (item := await self._queue.get()) is not None:
            if isinstance(item, _BrokenOff):
                raise item
            yield item

    async def send(self, item: bytes | None) -> None:
        """Hand over one piece, or ``None`` for the end, as soon as the one before is taken."""
        giving = begin(self._queue.put(item))
        either: set[asyncio.Future[Any]] = {giving, self._put}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            giving.cancel()
        if self._put.done():
            self._check()

    async def finish(self) -> None:
        """Wait until the whole object is there."""
        await self.send(None)
        await asyncio.wait({self._put})
        self._check()

    def _check(self) -> None:
        with translated(f"write to {self._shown}"):
            self._put.result()

    async def abort(self) -> None:
        """Make obstore remove the parts; a store that does not answer is given up on."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(_BrokenOff())
        await asyncio.wait({self._put}, timeout=_ABORT_SECONDS)
        self._put.cancel()
