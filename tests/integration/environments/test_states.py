"""What the database says of an environment after something else than the package broke."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.errors import BuildFailed, BuildInterrupted, StorageError
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.registry.spec import ModelSpec, parse_spec
from dissmodel_platform.sandbox.proxy import Destinations
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.prepare import Preparer
from dissmodel_platform.storage.objects import StoredObject, open_object_store
from dissmodel_platform.types import Sha256
from tests.integration.environments.index import LocalIndex, executor, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalIndex]:
    """Serve a package that has to be built, beside dissmodel's stand-in."""
    with serving(LocalIndex()) as served:
        monkeypatch.setenv("UV_DEFAULT_INDEX", served.url)
        served.add_stand_in()
        served.add_sdist("tide", "1.0", {"tide.py": executor("tide")})
        yield served


@pytest.fixture
def store(tmp_path: Path, index: LocalIndex) -> EnvironmentStore:
    destinations = Destinations(hosts=("127.0.0.1:*",), any_public=False)
    workshop = Workshop(inspect_walls(), Bounds(120), destinations)
    return EnvironmentStore(tmp_path / "packages", HARNESS, workshop)


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def preparer(database: Database, store: EnvironmentStore, objects: Path) -> Preparer:
    return Preparer(database, store, open_object_store(None, objects), allow_local=False)


@pytest.fixture
def spec() -> ModelSpec:
    text = '[model]\nclass = "tide"\npackage = "tide"\n'
    parsed = parse_spec("models/tide.toml", text).spec
    assert parsed is not None
    return parsed


async def known(database: Database) -> Any:
    return await database.fetch_one("SELECT * FROM environments")


async def test_a_store_that_takes_no_wheel_is_told_as_the_reason(
    database: Database, preparer: Preparer, spec: ModelSpec, objects: Path
) -> None:
    shutil.rmtree(objects)
    objects.write_text("this is no directory")
    with pytest.raises(StorageError):
        await preparer.prepare(spec)
    row = await known(database)
    assert (row["state"], row["lock_sha256"]) == ("failed", None)
    assert "written" in row["error"]


async def test_who_is_cancelled_or_stopped_does_not_leave_it_building(
    database: Database,
    preparer: Preparer,
    store: EnvironmentStore,
    spec: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_locking, go_on = threading.Event(), threading.Event()

    def lock(*_: object) -> None:
        is_locking.set()
        go_on.wait()
        raise BuildInterrupted("The worker is being stopped.")

    monkeypatch.setattr(store, "lock", lock)
    preparing = asyncio.create_task(preparer.prepare(spec))
    try:
        await asyncio.to_thread(is_locking.wait)
        assert (await known(database))["state"] == "building"
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing
    finally:
        go_on.set()
    assert (await known(database))["state"] == "pending"
    with pytest.raises(BuildInterrupted):
        await preparer.prepare(spec)
    assert (await known(database))["state"] == "pending"


async def test_a_new_lock_helps_where_the_store_has_lost_a_wheel(
    preparer: Preparer, spec: ModelSpec, objects: Path, tmp_path: Path
) -> None:
    first = await preparer.prepare(spec)
    assert await preparer.relock(spec) == (first.lock, first.lock)
    shutil.rmtree(objects / "blobs")
    for place in ("environments", "wheels", "cache"):
        shutil.rmtree(tmp_path / "packages" / place)
    with pytest.raises(BuildFailed, match=r"gone from the object store; .* models relock"):
        await preparer.prepare(spec)
    old, new = await preparer.relock(spec)
    assert old == first.lock
    assert (await preparer.prepare(spec)).lock == new
    assert all([await preparer._objects.exists(wheel.sha256) for wheel in new.built])


async def test_a_wheel_that_another_worker_brings_meanwhile_is_not_taken_away(
    preparer: Preparer,
    store: EnvironmentStore,
    spec: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await preparer.prepare(spec)
    (wheel,) = first.lock.built
    fetch, seen = preparer._objects.fetch, []

    async def look_and_fetch(sha256: Sha256, place: Path) -> StoredObject:
        seen.append(place.exists())
        return await fetch(sha256, place)

    monkeypatch.setattr(preparer._objects, "fetch", look_and_fetch)
    monkeypatch.setattr(store, "has_wheel", lambda _: False)  # it came a moment later
    shutil.rmtree(first.environment.directory)
    await preparer.prepare(spec)
    assert seen == [True]
    assert store.built_wheel(wheel).is_file()


async def test_builds_take_no_thread_that_runs_need(
    preparer: Preparer,
    store: EnvironmentStore,
    spec: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    go_on = threading.Event()

    def lock(*_: object) -> None:
        go_on.wait()
        raise BuildInterrupted("The worker is being stopped.")

    monkeypatch.setattr(store, "lock", lock)
    preparing = [asyncio.create_task(preparer.prepare(spec)) for _ in range(3)]
    try:
        while (await known(preparer._database) or {}).get("state") != "building":
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: "collected") == "collected"
    finally:
        go_on.set()
        results = await asyncio.gather(*preparing, return_exceptions=True)
    assert all(isinstance(each, BuildInterrupted) for each in results)
