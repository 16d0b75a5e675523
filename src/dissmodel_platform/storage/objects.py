"""The object store: bytes kept under their SHA-256, in a directory or a bucket.

An object is ``blobs/<first two digits>/<sha256>``. Which logical URI means which SHA-256 is the
database's business: names here are hexadecimal digits only and never come from a user.

How bytes get their name
------------------------
A stream's hash is known only at its end, so `ObjectStore.put_stream` writes to
``incoming/<random>`` and renames (in a bucket: copies within the store, then deletes). A file's
hash can be known before, and `ObjectStore.put_file` chooses by what writing costs:

* a directory: written to ``incoming`` while it is hashed, then renamed. Hashing first would read
  2 GB twice to save a write that costs no more than the second reading.
* a bucket: hashed first. Bytes that are there already are never sent, and new ones go straight to
  their name in one upload, which the store makes visible at its end only. What is sent is hashed
  again, and a file that changed in between aborts the upload, so no name ever lies.

Whatever dies half-way leaves nothing under ``blobs``; `ObjectStore.remove_stale_incoming` clears
the rest. Nothing is flushed to the disk (`fsync`): after a power cut a blob of the last seconds can
be short. It is then never taken for whole: `fetch` verifies the hash, and the next put of the same
bytes compares the size and replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable
from pathlib import Path

import obstore

from dissmodel_platform.errors import InvalidInput, ObjectNotFound, StorageError
from dissmodel_platform.storage.backend import (
    BLOBS,
    INCOMING,
    Backend,
    check_directory,
    open_backend,
    translated,
)
from dissmodel_platform.storage.downloads import read_range
from dissmodel_platform.storage.files import OpenFile, copy_file, hash_file
from dissmodel_platform.storage.partial import PartialFile, StoredObject
from dissmodel_platform.storage.tasks import see_through
from dissmodel_platform.storage.uploads import Tally, in_pieces, read_unchanged, upload
from dissmodel_platform.types import Sha256

__all__ = ["COPY_LIMIT_BYTES", "ObjectStore", "StoredObject", "open_object_store"]

COPY_LIMIT_BYTES = 5 * 1000**3
"""Largest object that S3 copies in one request
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html); larger ones are streamed."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CLEAN_UP_SECONDS = 10.0


def open_object_store(url: str | None, directory: Path) -> ObjectStore:
    """Open the store that `url` names (``STORAGE_URL``), or `directory` where it names none.

    See `backend.open_backend` for the forms of `url`; nothing is asked of a bucket yet.

    Raises
    ------
    SettingsError
        `url` is of none of the known forms.
    StorageError
        The directory cannot be made or is not private.
    """
    return ObjectStore(open_backend(url, directory))


class ObjectStore:
    """Content-addressed bytes. Every method may be used by many tasks and processes at once.

    Parameters
    ----------
    backend : Backend
        Where the bytes lie.
    copy_limit_bytes : int, optional
        Objects above this are not copied by the bucket itself.
    """

    def __init__(self, backend: Backend, copy_limit_bytes: int = COPY_LIMIT_BYTES) -> None:
        self._backend = backend
        self._copy_limit_bytes = copy_limit_bytes

    async def put_file(self, path: Path | OpenFile) -> StoredObject:
        """Keep an ordinary local file, by its path or as the caller holds it open.

        Raises
        ------
        InvalidInput
            There is no such file, or it is a link or a special file.
        StorageError
            It cannot be read, changed while it was sent, or the store refused it.
        """
        directory = self._backend.directory
        if directory is not None:
            incoming = _incoming()
            return await self._settle(incoming, copy_file(path, directory / incoming))
        known = await hash_file(path)
        if not await self._holds(known):
            pieces = read_unchanged(path, known)
            await upload(self._backend, _key(known.sha256), pieces, known.size_bytes)
        return known

    async def put_stream(
        self, chunks: AsyncIterable[bytes], *, max_bytes: int | None
    ) -> StoredObject:
        """Keep what `chunks` brings.

        Parameters
        ----------
        chunks : async iterable of bytes
            Drawn in the caller's task, so that a request's body can be passed in.
        max_bytes : int or None
            Bound on their sum; ``None``: no bound.

        Raises
        ------
        UploadTooLarge
            More than `max_bytes` came.
        StorageError
            The store refused them.
        Exception
            Whatever `chunks` raises, unchanged. In each case nothing is left in the store.
        """
        incoming, pieces = _incoming(), in_pieces(chunks, max_bytes)

        async def into_directory(directory: Path) -> StoredObject:
            async with contextlib.aclosing(pieces), PartialFile(directory / incoming) as partial:
                async for piece in pieces:
                    await partial.write(piece)
                return await partial.keep()

        async def into_bucket() -> StoredObject:
            tally = Tally()
            await upload(self._backend, incoming, tally.passing(pieces), max_bytes)
            return tally.stored

        directory = self._backend.directory
        return await self._settle(
            incoming, into_directory(directory) if directory else into_bucket()
        )

    async def fetch(self, sha256: Sha256, destination: Path) -> StoredObject:
        """Copy an object to a local file, which appears whole and verified or not at all.

        Raises
        ------
        ObjectNotFound
            The store holds no such object.
        StorageError
            Its bytes are damaged, the store broke off, or the file cannot be written.
        """
        size_bytes, key = await self.size(sha256), _key(sha256)
        if self._backend.directory is not None:
            return await copy_file(self._backend.directory / key, destination, expected=sha256)
        pieces = read_range(self._backend, key, 0, size_bytes)
        async with contextlib.aclosing(pieces), PartialFile(destination) as partial:
            async for piece in pieces:
                await partial.write(piece)
            return await partial.keep(expected=sha256)

    async def stream(
        self, sha256: Sha256, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Read an object, or a part of it, in pieces of a few megabytes, somewhat ahead.

        A slow reader holds no connection to the store open; an object never changes under its name.

        Parameters
        ----------
        sha256 : Sha256
            The object.
        start : int, optional
            First byte, from 0.
        end : int or None, optional
            Byte after the last, at most the object's size; ``None``: its size, which is asked for.

        Raises
        ------
        ObjectNotFound
            The store holds no such object (raised when the first piece is drawn).
        StorageError
            The store broke off, or the object ends before `end`.
        """
        if end is None:
            end = await self.size(sha256)
        pieces = read_range(self._backend, _key(sha256), start, end)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield bytes(piece)

    async def size(self, sha256: Sha256) -> int:
        """Size of an object in bytes.

        Raises
        ------
        ObjectNotFound
            The store holds no such object.
        """
        key = _key(sha256)
        self._backend.guard(key)
        with translated(f"find {sha256}", reading=True):
            meta = await obstore.head_async(self._backend.store, key)
        return int(meta["size"])

    async def exists(self, sha256: Sha256) -> bool:
        """Whether the store holds an object."""
        try:
            await self.size(sha256)
        except ObjectNotFound:
            return False
        return True

    async def delete(self, sha256: Sha256) -> None:
        """Remove an object; fine when it is gone already.

        The caller makes sure that nothing refers to it, and that no put of the same bytes is under
        way that may still count on finding them.
        """
        await self._remove(_key(sha256))

    async def check(self, timeout_seconds: float = 10.0) -> None:
        """See that the store answers, takes bytes, gives them back and lets them go.

        Raises
        ------
        StorageError
            It does not; says where it is and what to look at.
        """
        key, shown = f"{INCOMING}/check-{uuid.uuid4().hex}", self._backend.shown
        try:
            async with asyncio.timeout(timeout_seconds):
                if self._backend.directory is not None:
                    await asyncio.to_thread(check_directory, self._backend.directory)
                with translated(f"write to {shown}"):
                    await obstore.put_async(self._backend.store, key, b"check", use_multipart=False)
                with translated(f"read back from {shown}"):
                    back = await obstore.get_range_async(self._backend.store, key, start=0, end=5)
                await self._remove(key)
        except TimeoutError as error:
            raise StorageError(
                f"The object store {shown} did not answer within {timeout_seconds:g} s. See that "
                "STORAGE_URL and the store's own variables (AWS_ENDPOINT_URL, …) are right."
            ) from error
        if bytes(back) != b"check":
            raise StorageError(f"The object store {shown} gives back other bytes than it took.")

    async def remove_stale_incoming(self, older_than_seconds: float) -> int:
        """Remove what broken-off uploads left behind; returns how many objects that were.

        `older_than_seconds` must exceed the time that one upload may take (a day is ample).
        """
        return await self._backend.remove_stale_incoming(older_than_seconds)

    async def _settle(self, incoming: str, arrival: Awaitable[StoredObject]) -> StoredObject:
        """Give what arrives at `incoming` its name; nothing is left there whatever happens."""
        try:
            stored = await arrival
            if await self._holds(stored):
                await self._remove(incoming)
            else:
                await self._name(incoming, stored)
        except BaseException:
            await see_through(self._give_up(incoming))
            raise
        return stored

    async def _name(self, incoming: str, stored: StoredObject) -> None:
        key = _key(stored.sha256)
        self._backend.guard(key)
        if self._backend.directory is not None or stored.size_bytes <= self._copy_limit_bytes:
            with translated(f"name what was written to {self._backend.shown}"):
                await obstore.rename_async(self._backend.store, incoming, key)
            return
        whole = read_range(self._backend, incoming, 0, stored.size_bytes)
        async with contextlib.aclosing(whole):
            pieces = (bytes(piece) async for piece in whole)
            await upload(self._backend, key, pieces, stored.size_bytes)
        await self._remove(incoming)

    async def _holds(self, stored: StoredObject) -> bool:
        try:
            return await self.size(stored.sha256) == stored.size_bytes
        except ObjectNotFound:
            return False

    async def _remove(self, key: str) -> None:
        doing = f"clear {self._backend.shown}"
        with contextlib.suppress(ObjectNotFound), translated(doing, reading=True):
            await obstore.delete_async(self._backend.store, key)

    async def _give_up(self, incoming: str) -> None:
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(_CLEAN_UP_SECONDS):
                await self._remove(incoming)


def _incoming() -> str:
    return f"{INCOMING}/{uuid.uuid4().hex}"


def _key(sha256: Sha256) -> str:
    if not _SHA256.fullmatch(sha256):
        raise InvalidInput(f"{sha256!r} is not a SHA-256: give 64 lower-case hexadecimal digits.")
    return f"{BLOBS}/{sha256[:2]}/{sha256}"
