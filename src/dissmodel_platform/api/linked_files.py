"""Files that links open: of the platform's own buckets, and of those that the operator lists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from dissmodel_platform.api.context import Context
from dissmodel_platform.execution.input_rules import InputRules
from dissmodel_platform.storage.buckets import find_in_bucket, stream_from_bucket
from dissmodel_platform.storage.index import find_object
from dissmodel_platform.storage.media import media_type
from dissmodel_platform.storage.uris import LOGICAL_BUCKETS, LogicalUri
from dissmodel_platform.types import Sha256


@dataclass(frozen=True)
class LinkedFile:
    """A file behind a link.

    Attributes
    ----------
    version : Sha256
        Changes whenever the content does; of the platform's own files, the content's hash.
    size_bytes : int
        Its size.
    media_type : str
        What kind of file it is.
    stream : callable
        Reads from a first byte up to, not including, another one.
    """

    version: Sha256
    size_bytes: int
    media_type: str
    stream: Callable[[int, int], AsyncIterator[bytes]]


def read_address(parts: Context, uri: str) -> LogicalUri:
    """Read the address of a file that may be linked to.

    Raises
    ------
    InvalidInput
        It is none, or of another bucket.
    """
    return InputRules.of(parts.settings).parse_object(uri)


async def find_file(parts: Context, uri: LogicalUri) -> LinkedFile:
    """Find what an address stands for now.

    Raises
    ------
    ObjectNotFound
        Nothing.
    StorageError
        A bucket cannot be reached.
    """
    if uri.bucket in LOGICAL_BUCKETS:
        found = await find_object(parts.database, uri)
        return LinkedFile(
            found.sha256,
            found.size_bytes,
            found.media_type,
            partial(parts.store.stream, found.sha256),
        )
    there = await find_in_bucket(uri)
    return LinkedFile(
        there.version, there.size_bytes, media_type(uri.name), partial(stream_from_bucket, uri)
    )
