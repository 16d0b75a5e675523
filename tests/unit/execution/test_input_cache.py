"""Copies of inputs: shared, checked before each use, and kept below a size."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from dissmodel_platform.execution import input_cache
from dissmodel_platform.execution.input_cache import InputCache
from dissmodel_platform.types import Sha256

pytestmark = pytest.mark.anyio


def hash_of(content: bytes) -> Sha256:
    return Sha256(hashlib.sha256(content).hexdigest())


GRID = b"the grid of a model"
SHA256 = hash_of(GRID)


@pytest.fixture
def cache(tmp_path: Path) -> InputCache:
    return InputCache(tmp_path / "inputs")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return the directory that the runs' own are in."""
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def place_in(run: Path) -> Path:
    return run / "inputs" / "0" / "grid.tif"


async def add(cache: InputCache, content: bytes) -> None:
    async with cache.holding(hash_of(content)) as held:
        with cache.arriving() as arriving:
            arriving.write_bytes(content)
            held.adopt(arriving)


async def link(cache: InputCache, run: Path, content: bytes = GRID) -> Path:
    async with cache.holding(hash_of(content)) as held:
        assert held.is_intact()
        held.link(place_in(run))
    return place_in(run)


async def is_intact(cache: InputCache) -> bool:
    async with cache.holding(SHA256) as held:
        return held.is_intact()


async def test_runs_have_the_same_file_and_cannot_write_to_it_by_mistake(
    cache: InputCache, runs: Path
) -> None:
    await add(cache, GRID)
    first, second = await link(cache, runs / "1"), await link(cache, runs / "2")
    assert first.samefile(second)
    assert first.read_bytes() == GRID
    assert first.stat().st_mode & 0o777 == 0o444


async def test_links_of_ours_cost_no_hashing(
    cache: InputCache, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(cache, GRID)
    monkeypatch.setattr(input_cache, "_hash", lambda path: pytest.fail("was hashed"))
    for run in "12":
        await cache.release(SHA256, await link(cache, runs / run))
        assert not place_in(runs / run).exists()
        assert await is_intact(cache)


async def test_a_copy_that_a_run_has_written_to_is_replaced_however_well_it_hides_it(
    cache: InputCache, runs: Path
) -> None:
    await add(cache, GRID)
    place = await link(cache, runs / "1")
    before = place.stat()
    place.chmod(0o644)
    with place.open("r+b") as file:
        file.write(GRID[::-1])
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    place.chmod(0o444)
    after = place.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_mode, after.st_ino) == (
        before.st_mtime_ns, before.st_size, before.st_mode, before.st_ino,
    )  # fmt: skip
    await cache.release(SHA256, place)  # does not make it ours again
    assert not await is_intact(cache)
    await add(cache, GRID)
    assert (await link(cache, runs / "2")).read_bytes() == GRID


@pytest.mark.parametrize("how", ["mode", "time"])
async def test_a_copy_that_was_made_writable_is_replaced_though_its_bytes_are_right(
    cache: InputCache, runs: Path, how: str
) -> None:
    await add(cache, GRID)
    place = await link(cache, runs / "1")
    place.chmod(0o644) if how == "mode" else os.utime(place)
    assert not await is_intact(cache)


async def test_a_link_that_went_without_us_is_no_harm(cache: InputCache, runs: Path) -> None:
    await add(cache, GRID)
    (await link(cache, runs / "1")).unlink()
    assert await is_intact(cache)
    assert await is_intact(cache)


async def test_a_worker_that_dies_on_the_way_leaves_nothing_that_is_taken_for_a_copy(
    cache: InputCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", dies)
        with pytest.raises(KeyboardInterrupt):
            await add(cache, GRID)
    assert not await is_intact(cache)
    with monkeypatch.context() as patched:
        patched.setattr(input_cache, "_write_seal", dies)
        with pytest.raises(KeyboardInterrupt):
            await add(cache, GRID)
    assert await is_intact(cache)  # it was complete, and hashes as it should
    [copy] = (tmp_path / "inputs").glob(f"??/{SHA256}")
    copy.with_name(copy.name + ".seal").write_text("[1, 2")
    assert await is_intact(cache)


async def test_a_second_run_waits_for_the_first_one_s_copy(cache: InputCache, runs: Path) -> None:
    fetched = []

    async def stage(run: str) -> None:
        async with cache.holding(SHA256) as held:
            if not held.is_intact():
                fetched.append(run)
                with cache.arriving() as arriving:
                    arriving.write_bytes(GRID)
                    await asyncio.sleep(0.05)
                    held.adopt(arriving)
            held.link(place_in(runs / run))

    await asyncio.gather(*(stage(str(run)) for run in range(5)))
    assert len(fetched) == 1
    assert len({place_in(runs / str(run)).stat().st_ino for run in range(5)}) == 1


async def test_a_link_that_a_run_put_in_the_way_is_not_followed_when_its_input_is_removed(
    cache: InputCache, runs: Path
) -> None:
    await add(cache, GRID)
    mine, other = await link(cache, runs / "1"), await link(cache, runs / "2")
    mine.unlink()
    mine.parent.rmdir()
    mine.parent.symlink_to(other.parent)
    await cache.release(SHA256, mine)
    assert other.exists()
    mine.parent.unlink()
    mine.mkdir(parents=True)
    await cache.release(SHA256, mine)


async def test_a_run_does_not_wait_to_let_go_of_what_somebody_else_is_busy_with(
    cache: InputCache, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_cache, "_RELEASE_SECONDS", 0.01)
    await add(cache, GRID)
    place = await link(cache, runs / "1")
    async with cache.holding(SHA256):
        async with asyncio.timeout(30):
            await cache.release(SHA256, place)
    assert place.exists()
    place.unlink()
    assert await is_intact(cache)


async def test_where_files_cannot_be_linked_they_are_copied(
    cache: InputCache, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("crosses devices")

    await add(cache, GRID)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    place = await link(cache, runs / "1")
    assert place.read_bytes() == GRID
    assert place.stat().st_mode & 0o777 == 0o444
    await cache.release(SHA256, place)
    assert await is_intact(cache)


def contents(cache_directory: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in cache_directory.glob("??/*") if not path.suffix)


async def test_what_was_used_longest_ago_goes_and_nothing_that_is_in_use(
    cache: InputCache, runs: Path, tmp_path: Path
) -> None:
    for content in (b"a" * 10, b"b" * 10, b"c" * 10, b"d" * 10):
        await add(cache, content)
    for age, content in enumerate((b"b", b"a", b"d")):  # c was used last
        [seal] = (tmp_path / "inputs").glob(f"??/{hash_of(content * 10)}.seal")
        os.utime(seal, (1_000_000 + age, 1_000_000 + age))
    used = await link(cache, runs / "1", b"b" * 10)
    [seal] = (tmp_path / "inputs").glob(f"??/{hash_of(b'b' * 10)}.seal")
    os.utime(seal, (1, 1))
    done = cache.collect(25)
    assert done is not None
    assert (done.removed_count, done.before_bytes, done.after_bytes) == (2, 40, 20)
    assert contents(tmp_path / "inputs") == [b"b" * 10, b"c" * 10]
    async with cache.holding(hash_of(b"c" * 10)):
        assert cache.collect(1).after_bytes == 20  # type: ignore[union-attr]
    await cache.release(hash_of(b"b" * 10), used)
    assert cache.collect(1).after_bytes == 0  # type: ignore[union-attr]
    assert not list((tmp_path / "inputs").glob("??/*"))


async def test_without_a_limit_everything_stays_but_what_never_arrived(
    cache: InputCache, tmp_path: Path
) -> None:
    await add(cache, GRID)
    abandoned, arriving = (tmp_path / "inputs" / f".arriving-{name}" for name in "12")
    for path in (abandoned, arriving):
        path.write_text("half")
    os.utime(abandoned, (1, 1))
    assert cache.collect(0) is None
    assert contents(tmp_path / "inputs") == [GRID]
    assert (abandoned.exists(), arriving.exists()) == (False, True)


def test_a_cache_that_is_not_there_yet_is_empty(cache: InputCache) -> None:
    done = cache.collect(10)
    assert done is not None
    assert done.removed_count == 0
