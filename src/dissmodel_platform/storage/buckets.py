"""Inputs from other buckets than the platform's own: those that the operator has listed.

They are reached with the variables that the store's own bucket is (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_SKIP_SIGNATURE`` for open data, …).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import obstore
from obstore.exceptions import NotFoundError, PermissionDeniedError, UnauthenticatedError

from dissmodel_platform.storage.backend import open_bucket, translated
from dissmodel_platform.storage.files import PIECE_BYTES
from dissmodel_platform.storage.partial import PartialFile, StoredObject
from dissmodel_platform.storage.remote import NothingThere
from dissmodel_platform.storage.uris import LogicalUri

_ABSENT = (FileNotFoundError, NotFoundError, PermissionDeniedError, UnauthenticatedError)


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
    absent = NothingThere(
        f"There is no object {uri}, or this server may not read it; correct the address, or ask "
        f"the operator for access to the bucket."
    )
    async with PartialFile(destination) as partial:
        with translated(f"read {uri}"):
            try:
                answer = await obstore.get_async(store, uri.key)
            except _ABSENT as error:
                raise absent from error
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
