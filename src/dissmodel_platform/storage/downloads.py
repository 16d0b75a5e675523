"""One download: a range of an object, read ahead by one piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import obstore

from dissmodel_platform.storage.backend import Backend, translated
from dissmodel_platform.storage.files import PIECE_BYTES
from dissmodel_platform.storage.tasks import begin

_BUCKET_REQUEST_BYTES = 4 * 1024**2
"""What one request asks of a bucket, where each costs some 30 ms before its first byte."""


async def read_range(
    backend: Backend, key: str, start: int, end: int
) -> AsyncGenerator[memoryview, None]:
    """Read the bytes from `start` up to, not including, `end` in pieces of up to `PIECE_BYTES`.

    A long range is read by several requests, one ahead of the caller: a slow reader holds no
    connection open, and a broken one is mended by asking for its part again. That is also the fast
    way for a directory: obstore's one-request stream reads a file 8 KiB at a time (2 GB in 6 to
    12 s instead of 0.4 s).

    Raises
    ------
    ObjectNotFound
        Nothing goes by that key.
    StorageError
        The store broke off, the object ends before `end`, or a link stands in its place.
    """
    backend.guard(key)
    step = PIECE_BYTES if backend.directory is not None else _BUCKET_REQUEST_BYTES

    def part_at(offset: int) -> asyncio.Future[obstore.Bytes]:
        until = min(offset + step, end)
        return begin(obstore.get_range_async(backend.store, key, start=offset, end=until))

    ahead = part_at(start) if start < end else None
    try:
        while ahead is not None:
            with translated(f"read {key.rpartition('/')[2]}", reading=True):
                part = memoryview(await ahead)
            start += len(part)
            ahead = part_at(start) if start < end else None
            for offset in range(0, len(part), PIECE_BYTES):
                yield part[offset : offset + PIECE_BYTES]
    finally:
        if ahead is not None:
            ahead.cancel()
