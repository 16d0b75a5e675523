"""Readers see whole commits only, whatever happens to the processes that sync."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dissmodel_platform.database.pool import Database
from dissmodel_platform.registry.index import get_model, latest_publication, list_models
from dissmodel_platform.services.sync import ask_for_sync
from tests.integration.registry.conftest import Registry

pytestmark = pytest.mark.anyio

KILLS = 25
WATCHERS = 4
TRIGGERS_EACH = 20
MODELS = 40


def commit_all(registry: Registry, value: int) -> str:
    """Commit models that all hold the same value: a mixture of two commits shows."""
    return registry.commit(
        {f"model_{n}.toml": registry.model(f"model_{n}", value) for n in range(MODELS)}
    )


async def served_values(database: Database) -> set[int]:
    publication = await latest_publication(database)
    if publication is None:
        return set()
    models = await list_models(database, publication, limit=1000)
    assert len(models) == MODELS
    specs = [await get_model(database, publication, model.name) for model in models]
    return {spec.document["model"]["parameters"]["value"] for spec in specs}


@asynccontextmanager
async def reading(database_url: str) -> AsyncIterator[list[set[int]]]:
    """Read all the time, as another process would, and note every answer."""
    seen: list[set[int]] = []
    database = Database(database_url)
    await database.open()

    async def read() -> None:
        while True:
            seen.append(await served_values(database))
            await asyncio.sleep(0.002)

    reader = asyncio.create_task(read())
    try:
        yield seen
        if reader.done():
            reader.result()
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await database.close()


async def start_sync(registry: Registry, database_url: str, home: Path, *options: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dissmodel_platform", "registry", "sync", *options,
        env={
            **os.environ,
            "DATABASE_URL": database_url,
            "CONFIGS_REPO": registry.directory.as_uri(),
            "CONFIGS_SYNC_INTERVAL": "3600",
            "PLATFORM_HOME": str(home),
            "PLATFORM_ALLOW_LOCAL_REGISTRY": "true",
        },
        stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE,
        start_new_session=True,
    )  # fmt: skip


async def sync_once(registry: Registry, database_url: str, home: Path) -> None:
    process = await start_sync(registry, database_url, home)
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def test_a_sync_killed_anywhere_leaves_a_whole_commit_and_the_next_one_succeeds(
    database: Database, database_url: str, registry: Registry, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    chance = random.Random(20_261_123)
    commit_all(registry, 0)
    await sync_once(registry, database_url, home)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    commit_all(registry, 1)
    await sync_once(registry, database_url, home)
    whole_seconds = loop.time() - begin
    async with reading(database_url) as seen:
        for round_ in range(2, KILLS + 2):
            tip = commit_all(registry, round_)
            process = await start_sync(registry, database_url, home)
            # most of a run is Python starting; the end of it is where there is something to break
            moment = whole_seconds * chance.uniform(0.45, 1.0)
            try:
                await asyncio.wait_for(process.wait(), moment)
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
            values = await served_values(database)
            assert values in ({round_}, {round_ - 1}), f"killed after {moment:.3f} s"
            await sync_once(registry, database_url, home)
            publication = await latest_publication(database)
            assert publication is not None
            assert publication.revision == tip
            assert await served_values(database) == {round_}
    assert all(len(values) == 1 for values in seen)
    assert {value for values in seen for value in values} >= set(range(2, KILLS + 2))


async def test_four_sync_processes_and_many_triggers_agree(
    database: Database, database_url: str, registry: Registry, tmp_path: Path
) -> None:
    commit_all(registry, 0)
    watchers = [
        await start_sync(registry, database_url, tmp_path / "home", "--watch")
        for _ in range(WATCHERS)
    ]
    try:
        await ask_for_sync(database, "test", timeout_seconds=60)

        async def trigger(asker: int) -> None:
            for turn in range(TRIGGERS_EACH):
                if asker == 0:
                    commit_all(registry, turn + 1)
                await ask_for_sync(database, f"asker {asker}", timeout_seconds=60)

        async with reading(database_url) as seen:
            await asyncio.gather(*(trigger(asker) for asker in range(WATCHERS)))
        assert all(len(values) == 1 for values in seen)
        assert await served_values(database) == {TRIGGERS_EACH}
        row = await database.fetch_one(
            """
            SELECT count(*) AS runs, count(*) FILTER (WHERE error IS NOT NULL) AS failed,
                   (SELECT count(*) FROM sync_requests) AS requests,
                   (SELECT count(*) FROM registry_publications) AS published
            FROM sync_runs
            """
        )
        assert row is not None
        assert row["failed"] == 0
        assert row["requests"] == WATCHERS * TRIGGERS_EACH + 1
        assert row["runs"] <= row["requests"] + WATCHERS, "requests share runs"
        assert row["published"] == TRIGGERS_EACH + 1, "no commit is published twice"
    finally:
        for watcher in watchers:
            watcher.send_signal(signal.SIGTERM)
        for watcher in watchers:
            _, errors = await watcher.communicate()
            assert watcher.returncode == 0, errors.decode()
