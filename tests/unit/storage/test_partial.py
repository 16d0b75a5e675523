"""A file appears whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import resource
from pathlib import Path

import pytest

from dissmodel_platform.errors import StorageError
from dissmodel_platform.storage.partial import PartialFile, StoredObject
from dissmodel_platform.types import Sha256

pytestmark = pytest.mark.anyio


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_a_kept_file_replaces_what_was_there(tmp_path: Path) -> None:
    destination = tmp_path / "grid.zip"
    destination.write_bytes(b"old")
    async with PartialFile(destination) as partial:
        await partial.write(b"ne")
        await partial.write(memoryview(b"w"))
        assert destination.read_bytes() == b"old"
        stored = await partial.keep()
    assert destination.read_bytes() == b"new"
    assert stored == StoredObject(hashlib.sha256(b"new").hexdigest(), 3)
    assert names(tmp_path) == ["grid.zip"]


async def test_a_file_that_is_not_kept_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        async with PartialFile(tmp_path / "grid.zip") as partial:
            await partial.write(b"half")
            raise RuntimeError
    assert names(tmp_path) == []


async def test_a_cancelled_writer_leaves_nothing(tmp_path: Path) -> None:
    writing = asyncio.Event()

    async def write_for_ever() -> None:
        async with PartialFile(tmp_path / "grid.zip") as partial:
            while True:
                await partial.write(bytes(1 << 20))
                writing.set()

    task = asyncio.create_task(write_for_ever())
    await writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) == []


async def test_a_directory_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"'grid\.zip' cannot be written: No such file"):
        async with PartialFile(tmp_path / "gone" / "grid.zip"):
            pass


async def test_bytes_that_are_not_the_expected_ones_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="damaged"):
        async with PartialFile(tmp_path / "grid.zip") as partial:
            await partial.write(b"content")
            await partial.keep(expected=Sha256("0" * 64))
    assert names(tmp_path) == []


async def test_a_file_that_does_not_fit_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StorageError, match="cannot be written: File too large"):
            async with PartialFile(tmp_path / "grid.zip") as partial:
                for _ in range(4):
                    await partial.write(bytes(1 << 20))
                await partial.keep()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []
