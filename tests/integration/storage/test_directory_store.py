"""What is particular to a directory: modes, links, crashes and memory."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dissmodel_platform.errors import SettingsError, StorageError
from dissmodel_platform.storage.objects import ObjectStore, StoredObject, open_object_store

pytestmark = pytest.mark.anyio


async def one(content: bytes) -> AsyncIterator[bytes]:
    yield content


def blob(directory: Path, stored: StoredObject) -> Path:
    return directory / "blobs" / stored.sha256[:2] / stored.sha256


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files_below(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*") if not path.is_dir()]


def test_a_new_directory_is_for_its_owner_alone(directory: Path) -> None:
    open_object_store(None, directory)
    assert [mode(directory), mode(directory / "blobs"), mode(directory / "incoming")] == [0o700] * 3


def test_in_an_open_directory_the_bytes_are_still_for_the_owner_alone(directory: Path) -> None:
    directory.mkdir(mode=0o755, parents=True)
    open_object_store(None, directory)
    assert [mode(directory / "blobs"), mode(directory / "incoming")] == [0o700] * 2


def test_a_directory_that_others_may_write_to_is_refused(directory: Path) -> None:
    open_object_store(None, directory)
    for place in (directory, directory / "blobs"):
        place.chmod(0o770)
        with pytest.raises(StorageError, match="chmod go-w"):
            open_object_store(None, directory)
        place.chmod(0o700)


async def test_a_file_address_names_the_same_store(directory: Path, tmp_path: Path) -> None:
    spaced = tmp_path / "big disk" / "objects"
    store = open_object_store(f"file://{str(spaced).replace(' ', '%20')}", directory)
    stored = await store.put_stream(one(b"content"), max_bytes=None)
    assert await open_object_store(None, spaced).exists(stored.sha256)
    assert files_below(directory) == []


@pytest.mark.parametrize(
    "url",
    [
        "objects",
        "/srv/objects",
        "file://host/srv/objects",
        "file:objects",
        "s3://",
        "ftp://host/objects",
        "memory:///",
        "http://host/bucket",
        "s3://key:secret@bucket/prefix",
        "s3://[bucket/prefix",
    ],
)
def test_an_address_of_another_form_is_refused_without_showing_secrets(
    url: str, directory: Path
) -> None:
    with pytest.raises(SettingsError, match="STORAGE_URL") as error:
        open_object_store(url, directory)
    assert "secret@" not in str(error.value)


async def test_the_directory_itself_may_be_a_link_to_a_larger_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    store = open_object_store(None, tmp_path / "link")
    stored = await store.put_stream(one(b"content"), max_bytes=None)
    assert blob(tmp_path / "disk", stored).read_bytes() == b"content"


def test_a_link_in_place_of_a_part_of_the_store_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    directory.mkdir(parents=True, mode=0o700)
    (directory / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is not a directory"):
        open_object_store(None, directory)


async def test_a_link_in_place_of_an_object_is_not_followed(
    directory_store: ObjectStore, directory: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"content")
    stored = await directory_store.put_stream(one(b"content"), max_bytes=None)
    blob(directory, stored).unlink()
    blob(directory, stored).symlink_to(secret)
    for ask in (
        lambda: directory_store.size(stored.sha256),
        lambda: directory_store.fetch(stored.sha256, tmp_path / "copy"),
        lambda: anext(directory_store.stream(stored.sha256, 0, 7)),
        lambda: directory_store.put_file(secret),
    ):
        with pytest.raises(StorageError, match="not an ordinary file"):
            await ask()
    assert secret.read_bytes() == b"content"


async def test_a_link_in_place_of_a_shard_takes_no_bytes_elsewhere(
    directory_store: ObjectStore, directory: Path, tmp_path: Path
) -> None:
    stored = await directory_store.put_stream(one(b"content"), max_bytes=None)
    await directory_store.delete(stored.sha256)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    blob(directory, stored).parent.rmdir()
    blob(directory, stored).parent.symlink_to(elsewhere)
    with pytest.raises(StorageError, match="not a directory"):
        await directory_store.put_stream(one(b"content"), max_bytes=None)
    assert files_below(elsewhere) == files_below(directory / "incoming") == []


async def test_a_deleted_link_leaves_its_target(
    directory_store: ObjectStore, directory: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"content")
    stored = await directory_store.put_stream(one(b"content"), max_bytes=None)
    blob(directory, stored).unlink()
    blob(directory, stored).symlink_to(target)
    await directory_store.delete(stored.sha256)
    assert target.exists()


async def test_a_directory_that_is_gone_fails_the_check(
    directory_store: ObjectStore, directory: Path
) -> None:
    (directory / "incoming").rmdir()
    with pytest.raises(StorageError, match="is gone"):
        await directory_store.check()


CRASH = """
import asyncio, sys
from pathlib import Path
from dissmodel_platform.storage.objects import open_object_store

async def endless():
    for _ in range(6):
        yield bytes(4 << 20)
    print("half-way", flush=True)
    await asyncio.sleep(600)

asyncio.run(open_object_store(None, Path(sys.argv[1])).put_stream(endless(), max_bytes=None))
"""


def crash_half_way(directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CRASH, str(directory)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half-way\n"
        process.kill()


async def test_a_killed_process_leaves_no_object_and_its_rest_is_cleared(
    directory_store: ObjectStore, directory: Path
) -> None:
    crash_half_way(directory)
    assert files_below(directory / "blobs") == []
    left = files_below(directory / "incoming")
    assert len(left) == 1
    assert await directory_store.remove_stale_incoming(older_than_seconds=3600) == 0
    assert await directory_store.remove_stale_incoming(older_than_seconds=-60) == len(left)
    assert files_below(directory) == []


MEMORY = """
import asyncio, sys
from pathlib import Path
from dissmodel_platform.storage.objects import open_object_store

PIECES = 300

def peak():
    # ru_maxrss would count what the parent held when it forked
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

async def body():
    for number in range(PIECES * 16):
        yield number.to_bytes(4, "big") * (1 << 14)

async def main(directory):
    store = open_object_store(None, directory / "objects")
    stored = await store.put_stream(body(), max_bytes=None)
    assert stored.size_bytes == PIECES << 20
    await store.fetch(stored.sha256, directory / "copy")
    assert await store.put_file(directory / "copy") == stored
    assert sum([len(piece) async for piece in store.stream(stored.sha256)]) == stored.size_bytes
    print(peak())

asyncio.run(main(Path(sys.argv[1])))
"""


def test_memory_stays_flat_for_an_object_of_300_mb(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], stdout=subprocess.PIPE, check=True
    )
    for path in tmp_path.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)  # pytest keeps the last directories
    assert int(answer.stdout) < 150 * 1024**2
