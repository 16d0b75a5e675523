"""What is particular to a bucket: requests saved, uploads aborted, answers that do not come."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import obstore
import pytest

from dissmodel_platform.errors import StorageError
from dissmodel_platform.storage.files import PIECE_BYTES
from dissmodel_platform.storage.objects import ObjectStore, open_object_store

pytestmark = pytest.mark.anyio


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield os.urandom(PIECE_BYTES)


def unfinished_uploads(bucket: str) -> int:
    return httpx.get(f"{bucket}?uploads", trust_env=False).text.count("<UploadId>")


async def test_an_upload_that_breaks_leaves_no_parts_in_the_bucket(
    s3_store: ObjectStore, s3_bucket: str
) -> None:
    seen = []

    async def broken() -> AsyncIterator[bytes]:
        async for piece in pieces(8):
            yield piece
        seen.append(unfinished_uploads(s3_bucket))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await s3_store.put_stream(broken(), max_bytes=None)
    assert seen == [1]
    assert unfinished_uploads(s3_bucket) == 0


async def test_a_cancelled_upload_leaves_no_parts_in_the_bucket(
    s3_store: ObjectStore, s3_bucket: str
) -> None:
    half_way = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        async for piece in pieces(8):
            yield piece
        half_way.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(s3_store.put_stream(endless(), max_bytes=None))
    await half_way.wait()
    assert unfinished_uploads(s3_bucket) == 1
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert unfinished_uploads(s3_bucket) == 0


async def test_bytes_that_are_there_already_are_not_sent_again(
    s3_store: ObjectStore, tmp_path: Path
) -> None:
    path = tmp_path / "grid.zip"
    path.write_bytes(os.urandom(3 * PIECE_BYTES))
    stored = await s3_store.put_file(path)
    key = f"blobs/{stored.sha256[:2]}/{stored.sha256}"
    marked = bytes(stored.size_bytes)
    obstore.put(s3_store._backend.store, key, marked)
    await s3_store.put_file(path)
    assert bytes(obstore.get(s3_store._backend.store, key).bytes()) == marked


async def test_what_the_bucket_cannot_copy_at_once_is_streamed(s3_store: ObjectStore) -> None:
    store = ObjectStore(s3_store._backend, copy_limit_bytes=PIECE_BYTES)
    stored = await store.put_stream(pieces(5), max_bytes=None)
    assert await store.size(stored.sha256) == 5 * PIECE_BYTES
    assert [m["path"] for m in obstore.list(store._backend.store).collect()] == [
        f"blobs/{stored.sha256[:2]}/{stored.sha256}"
    ]


async def test_two_prefixes_of_one_bucket_do_not_see_each_other(
    s3_store: ObjectStore, s3_bucket: str, tmp_path: Path
) -> None:
    other = open_object_store(f"s3://{s3_bucket.rpartition('/')[2]}/other", tmp_path)
    stored = await s3_store.put_stream(pieces(1), max_bytes=None)
    assert not await other.exists(stored.sha256)


async def test_a_bucket_that_does_not_exist_fails_check_and_put(
    s3_bucket: str, tmp_path: Path
) -> None:
    store = open_object_store("s3://no-such-bucket-here/objects", tmp_path)
    with pytest.raises(StorageError, match="no-such-bucket-here"):
        await store.check()
    for count in (1, 8):
        with pytest.raises(StorageError):
            await store.put_stream(pieces(count), max_bytes=None)


async def test_a_store_that_does_not_answer_fails_the_check_in_time(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        store = open_object_store("s3://bucket/objects", tmp_path)
        with pytest.raises(StorageError, match=r"did not answer within 0\.2 s"):
            await store.check(timeout_seconds=0.2)
