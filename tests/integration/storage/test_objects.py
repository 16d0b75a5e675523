"""What every object store promises, over a directory and over S3."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import obstore
import pytest

from dissmodel_platform.errors import InvalidInput, ObjectNotFound, StorageError, UploadTooLarge
from dissmodel_platform.storage.files import PIECE_BYTES, OpenFile
from dissmodel_platform.storage.objects import ObjectStore, StoredObject
from dissmodel_platform.types import Sha256

pytestmark = pytest.mark.anyio

SIZES = [0, 1, 5_000, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES + 7]
MISSING = Sha256("0" * 64)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def chunked(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def named(content: bytes) -> StoredObject:
    return StoredObject(Sha256(hashlib.sha256(content).hexdigest()), len(content))


def raw_keys(store: ObjectStore) -> list[str]:
    listed = obstore.list(store._backend.store).collect()
    return sorted(meta["path"] for meta in listed)


def tamper(store: ObjectStore, stored: StoredObject, content: bytes) -> None:
    key = f"blobs/{stored.sha256[:2]}/{stored.sha256}"
    obstore.put(store._backend.store, key, content)


async def read(store: ObjectStore, sha256: Sha256, *bounds: int | None) -> bytes:
    return b"".join([piece async for piece in store.stream(sha256, *bounds)])  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_that_was_put_comes_back_from_fetch_and_stream(
    store: ObjectStore, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    stored = await store.put_file(tmp_path / "source")
    assert stored == named(content)
    assert await store.fetch(stored.sha256, tmp_path / "copy") == stored
    assert (tmp_path / "copy").read_bytes() == content
    assert await read(store, stored.sha256) == content
    assert await store.size(stored.sha256) == size
    assert raw_keys(store) == [f"blobs/{stored.sha256[:2]}/{stored.sha256}"]


async def test_an_open_file_is_put_whatever_its_name_means_by_now(
    store: ObjectStore, tmp_path: Path
) -> None:
    path, content = tmp_path / "source", os.urandom(PIECE_BYTES + 1)
    path.write_bytes(content)
    with path.open("rb") as file:
        path.unlink()
        path.symlink_to("/etc/passwd")
        file.seek(7)
        opened = OpenFile(file.fileno(), "source")
        assert await store.put_file(opened) == named(content)
        assert await store.put_file(opened) == named(content)
    assert await read(store, named(content).sha256) == content


@pytest.mark.parametrize("size", SIZES)
async def test_a_stream_that_was_put_is_the_same_object_as_the_file(
    store: ObjectStore, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    stored = await store.put_stream(chunked(content), max_bytes=size)
    assert stored == named(content) == await store.put_file(tmp_path / "source")
    assert await read(store, stored.sha256) == content
    assert raw_keys(store) == [f"blobs/{stored.sha256[:2]}/{stored.sha256}"]


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (0, 10), (5, 5), (PIECE_BYTES - 1, PIECE_BYTES + 1), (3, None), (10, 2 * PIECE_BYTES)],
)
async def test_a_range_has_exactly_its_bytes(
    store: ObjectStore, start: int, end: int | None
) -> None:
    content = os.urandom(2 * PIECE_BYTES)
    stored = await store.put_stream(chunked(content), max_bytes=None)
    assert await read(store, stored.sha256, start, end) == content[start:end]


async def test_a_range_beyond_the_end_is_an_error_not_a_short_answer(store: ObjectStore) -> None:
    stored = await store.put_stream(chunked(b"12345"), max_bytes=None)
    for bounds in ((0, 6), (5, 6), (7, 9)):
        with pytest.raises(StorageError):
            await read(store, stored.sha256, *bounds)


async def test_a_reader_may_stop_half_way(store: ObjectStore) -> None:
    stored = await store.put_stream(chunked(bytes(4 * PIECE_BYTES)), max_bytes=None)
    stream = store.stream(stored.sha256)
    assert len(await anext(stream)) == PIECE_BYTES
    await stream.aclose()


async def test_what_is_not_there_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    assert not await store.exists(MISSING)
    for ask in (
        lambda: store.size(MISSING),
        lambda: store.fetch(MISSING, tmp_path / "copy"),
        lambda: read(store, MISSING),
        lambda: read(store, MISSING, 0, 4),
    ):
        with pytest.raises(ObjectNotFound, match="holds nothing"):
            await ask()
    assert names(tmp_path) in ([], ["home"])


@pytest.mark.parametrize("name", ["", "0", "0" * 63, "G" * 64, "A" * 64, "../" * 20 + "0000"])
async def test_a_name_that_is_no_hash_is_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(InvalidInput):
        await store.size(Sha256(name))


async def test_a_deleted_object_is_gone_and_may_be_deleted_again(store: ObjectStore) -> None:
    stored = await store.put_stream(chunked(b"content"), max_bytes=None)
    assert await store.exists(stored.sha256)
    await store.delete(stored.sha256)
    await store.delete(stored.sha256)
    assert not await store.exists(stored.sha256)


async def test_a_stream_that_is_too_large_is_refused_and_leaves_nothing(
    store: ObjectStore,
) -> None:
    for size in (11, 4 * PIECE_BYTES):
        with pytest.raises(UploadTooLarge, match="larger than the 10 bytes"):
            await store.put_stream(chunked(bytes(size)), max_bytes=10)
    assert raw_keys(store) == []


@pytest.mark.parametrize("size", [10, 5 * PIECE_BYTES])
async def test_a_stream_that_breaks_raises_its_own_error_and_leaves_nothing(
    store: ObjectStore, size: int
) -> None:
    class Disconnected(OSError):
        pass

    async def broken() -> AsyncIterator[bytes]:
        async for chunk in chunked(os.urandom(size)):
            yield chunk
        raise Disconnected

    with pytest.raises(Disconnected):
        await store.put_stream(broken(), max_bytes=None)
    assert raw_keys(store) == []


@pytest.mark.parametrize("size", [10, 5 * PIECE_BYTES])
async def test_a_cancelled_stream_leaves_nothing(store: ObjectStore, size: int) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        async for chunk in chunked(os.urandom(size)):
            yield chunk
        waiting.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(store.put_stream(endless(), max_bytes=None))
    await waiting.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert raw_keys(store) == []


async def test_a_request_body_is_drawn_in_the_task_that_puts_it(store: ObjectStore) -> None:
    tasks = set()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(4):
            tasks.add(asyncio.current_task())
            yield bytes(PIECE_BYTES)

    await store.put_stream(body(), max_bytes=None)
    assert tasks == {asyncio.current_task()}


async def test_many_puts_of_the_same_bytes_at_once_are_one_object(
    store: ObjectStore, tmp_path: Path
) -> None:
    content = os.urandom(2 * PIECE_BYTES + 1)
    (tmp_path / "source").write_bytes(content)
    puts = [store.put_stream(chunked(content), max_bytes=None) for _ in range(4)]
    puts += [store.put_file(tmp_path / "source") for _ in range(4)]
    assert set(await asyncio.gather(*puts)) == {named(content)}
    assert len(raw_keys(store)) == 1
    assert await read(store, named(content).sha256) == content


async def test_damaged_bytes_are_told_and_never_appear_at_the_destination(
    store: ObjectStore, tmp_path: Path
) -> None:
    stored = await store.put_stream(chunked(b"content"), max_bytes=None)
    tamper(store, stored, b"CONTENT")
    (tmp_path / "copies").mkdir()
    with pytest.raises(StorageError, match="damaged"):
        await store.fetch(stored.sha256, tmp_path / "copies" / "copy")
    assert names(tmp_path / "copies") == []


@pytest.mark.parametrize("how", ["stream", "file"])
async def test_a_cut_off_object_is_replaced_by_the_next_put(
    store: ObjectStore, tmp_path: Path, how: str
) -> None:
    (tmp_path / "source").write_bytes(b"content")
    stored = await store.put_file(tmp_path / "source")
    tamper(store, stored, b"cont")
    puts: dict[str, Callable[[], object]] = {
        "stream": lambda: store.put_stream(chunked(b"content"), max_bytes=None),
        "file": lambda: store.put_file(tmp_path / "source"),
    }
    assert await puts[how]() == stored  # type: ignore[misc]
    assert await read(store, stored.sha256) == b"content"


async def test_a_link_is_not_put(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="link"):
        await store.put_file(tmp_path / "link")
    assert raw_keys(store) == []


async def test_a_healthy_store_passes_its_check_and_keeps_nothing_of_it(
    store: ObjectStore,
) -> None:
    await store.check()
    assert raw_keys(store) == []


async def test_what_broken_uploads_left_is_cleared_and_nothing_else(store: ObjectStore) -> None:
    stored = await store.put_stream(chunked(b"content"), max_bytes=None)
    obstore.put(store._backend.store, "incoming/left", b"half")
    assert await store.remove_stale_incoming(older_than_seconds=3600) == 0
    assert await store.remove_stale_incoming(older_than_seconds=-60) == 1
    assert await store.remove_stale_incoming(older_than_seconds=-60) == 0
    assert await read(store, stored.sha256) == b"content"
