"""A local file is read in order and appears whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path

import pytest

from dissmodel_platform.errors import InvalidInput, StorageError
from dissmodel_platform.storage.files import PIECE_BYTES, copy_file, hash_file, read_pieces
from dissmodel_platform.storage.partial import StoredObject
from dissmodel_platform.storage.uploads import read_unchanged
from dissmodel_platform.types import Sha256

pytestmark = pytest.mark.anyio


def open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES - 1])
async def test_pieces_join_to_the_file(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "grid.zip"
    path.write_bytes(content)
    pieces = [piece async for piece in read_pieces(path)]
    assert b"".join(pieces) == content
    assert all(len(piece) == PIECE_BYTES for piece in pieces[:-1])
    assert await hash_file(path) == StoredObject(hashlib.sha256(content).hexdigest(), size)


async def test_links_directories_pipes_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "directory", "pipe", "missing"):
        for refusing in (hash_file(tmp_path / name), copy_file(tmp_path / name, tmp_path / "copy")):
            with pytest.raises(InvalidInput, match=name):
                await refusing
    assert not (tmp_path / "copy").exists()


async def test_a_reader_that_stops_half_way_leaves_no_open_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.zip"
    path.write_bytes(bytes(3 * PIECE_BYTES))
    before = open_files()
    async with contextlib.aclosing(read_pieces(path)) as pieces:
        await anext(pieces)
    assert open_files() == before


@pytest.mark.parametrize("size", [0, 10, 3 * PIECE_BYTES])
async def test_a_file_that_changed_never_comes_to_its_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "grid.zip"
    path.write_bytes(bytes(size))
    known = await hash_file(path)
    assert b"".join([piece async for piece in read_unchanged(path, known)]) == bytes(size)
    path.write_bytes(bytes(size) + b"!")
    came = 0
    with pytest.raises(StorageError, match="changed"):
        async for piece in read_unchanged(path, known):
            came += len(piece)
    assert came <= size


@pytest.mark.parametrize("size", [0, 1, 5 * PIECE_BYTES + 7])
async def test_a_copy_is_the_file_and_has_its_hash(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "copy").write_bytes(b"old")
    stored = await copy_file(tmp_path / "source", tmp_path / "copy")
    assert stored == await hash_file(tmp_path / "source")
    assert (tmp_path / "copy").read_bytes() == content
    assert names(tmp_path) == ["copy", "source"]


async def test_a_copy_of_other_bytes_than_expected_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    with pytest.raises(StorageError, match="damaged"):
        await copy_file(tmp_path / "source", tmp_path / "copy", expected=Sha256("0" * 64))
    assert names(tmp_path) == ["source"]


async def test_a_cancelled_copy_stops_early_and_leaves_nothing(tmp_path: Path) -> None:
    with (tmp_path / "source").open("wb") as source:
        source.truncate(1 << 40)  # a sparse file that would take many minutes
    (tmp_path / "copies").mkdir()
    copying = asyncio.create_task(copy_file(tmp_path / "source", tmp_path / "copies" / "copy"))
    while not names(tmp_path / "copies"):
        await asyncio.sleep(0)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert names(tmp_path / "copies") == []
