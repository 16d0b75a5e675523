"""Inputs from other buckets than the platform's own: those that the operator has listed.

They are reached with the variables that the store's own bucket is (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_SKIP_SIGNATURE`` for open data, …).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import NotFoundError, PermissionDeniedError, UnauthenticatedError

from dissmodel_platform.errors import ObjectNotFound
from dissmodel_platform.storage.backend import Backend, open_bucket, translated
from dissmodel_platform.storage.downloads import read_range
from dissmodel_platform.storage.files import PIECE_BYTES
from dissmodel_platform.storage.partial import PartialFile, StoredObject
from dissmodel_platform.storage.remote import NothingThere
from dissmodel_platform.storage.uris import LogicalUri
from dissmodel_platform.types import Sha256

_ABSENT = (FileNotFoundError, NotFoundError, PermissionDeniedError, UnauthenticatedError)


@dataclass(frozen=True)
class BucketObject:
    """An object as it is now.

    Attributes
    ----------
    version : Sha256
        Hash of what the bucket says of it: changes whenever its content does.
    size_bytes : int
        Its size.
    """

    version: Sha256
    size_bytes: int


async def find_in_bucket(uri: LogicalUri) -> BucketObject:
    """Ask a bucket for what it has under an address.

    Raises
    ------
    ObjectNotFound
        Nothing, or nothing that this server may read.
    StorageError
        The bucket cannot be reached.
    """
    with translated(f"find {uri}"):
        try:
            meta = await obstore.head_async(open_bucket(f"s3://{uri.bucket}"), uri.key)
        except _ABSENT as error:
            raise ObjectNotFound(_absent(uri)) from error
    said = f"{meta['e_tag']}\0{meta['size']}\0{meta['last_modified']}"
    return BucketObject(Sha256(hashlib.sha256(said.encode()).hexdigest()), int(meta["size"]))


async def stream_from_bucket(uri: LogicalUri, start: int, end: int) -> AsyncIterator[bytes]:
    """Read the bytes of an object from `start` up to, not including, `end`, somewhat ahead.

    Raises
    ------
    StorageError
        The bucket broke off.
    """
    backend = Backend(open_bucket(f"s3://{uri.bucket}"), f"s3://{uri.bucket}", None)
    async with contextlib.aclosing(read_range(backend, uri.key, start, end)) as pieces:
        async for piece in pieces:
            yield bytes(piece)


async def fetch_object(
    uri: LogicalUri, destination: Path, *, count: Callable[[int], None]
) -> StoredObject:
    """Download an object, which appears at `destination` whole or not at all.

    Parameters
    ----------
    uri : LogicalUri
        Bucket and key.
    destination : Path
        Where the file is to appear; its directory exists.
    count : callable
        Called with the number of bytes of each piece; what it raises ends the download.

    Raises
    ------
    NothingThere
        The bucket has no such object, or none that this server may read.
    StorageError
        The bucket cannot be reached, or broke off.
    """
    store = open_bucket(f"s3://{uri.bucket}")
    async with PartialFile(destination) as partial:
        with translated(f"read {uri}"):
            try:
                answer = await obstore.get_async(store, uri.key)
            except _ABSENT as error:
                raise NothingThere(_absent(uri)) from error
        pieces = answer.stream(min_chunk_size=PIECE_BYTES).__aiter__()
        while True:
            with translated(f"read {uri}"):
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    break
            count(len(piece))
            await partial.write(memoryview(piece))
        return await partial.keep()


def _absent(uri: LogicalUri) -> str:
    return (
        f"There is no object {uri}, or this server may not read it; correct the address, or ask "
        f"the operator for access to the bucket."
    )
