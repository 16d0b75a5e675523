"""Builds ahead of need: a job for each model, tried again where the network failed, or by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dissmodel_platform.cli import main
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import (
    BuildFailed,
    BuildInterrupted,
    DatabaseError,
    PackageUnreachable,
    PlatformError,
    StorageError,
)
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.services.build import RETRY_SECONDS, Builder
from tests.integration.api.building import Bench, lock, taking_jobs
from tests.integration.api.role import KEY, serving

pytestmark = pytest.mark.anyio

AWAY = PackageUnreachable("The index cannot be reached.", "dns error")


@pytest.fixture(autouse=True)
def prepares(bench: Bench) -> None:
    bench.prepares = True


@pytest.fixture
async def builder(database: Database, bench: Bench) -> Builder:
    return Builder(database, await open_queue(database), bench)  # type: ignore[arg-type]


async def take_all(database: Database) -> list[dict[str, Any]]:
    """Return the jobs that wait, by priority, and empty the queue."""
    rows = await database.fetch_all(
        """
        DELETE FROM procrastinate_jobs RETURNING task_name, args, priority,
            extract(epoch FROM scheduled_at - now())::float8 AS seconds
        """
    )
    return sorted(rows, key=lambda row: (-row["priority"], str(row["args"])))


async def environment(client: httpx.AsyncClient, name: str = "flood") -> Any:
    return (await client.get(f"/models/{name}")).json()["environment"]


async def test_a_publication_asks_for_each_model_apart_and_after_what_somebody_waits_for(
    database: Database, publish: Any, builder: Builder
) -> None:
    await publish(flood="", tide="")
    (asked,) = await take_all(database)
    await builder.prepare_models(**asked["args"])
    jobs = await take_all(database)
    assert [(job["task_name"], job["args"]["model"]) for job in jobs] == [
        ("prepare_model", "flood"), ("prepare_model", "tide"),
    ]  # fmt: skip
    assert all(job["priority"] < 0 for job in jobs)
    await builder.prepare_model(**jobs[0]["args"])
    await builder.prepare_models(**asked["args"])
    again = await take_all(database)
    assert [job["args"]["model"] for job in again] == ["tide"], "what is ready is left alone"


@pytest.mark.parametrize("versions", ["0.6.2", ">=0.6,<0.7", "dissmodel >=0.6"])
async def test_a_version_that_asks_for_another_library_is_built_as_well(
    versions: str, client: httpx.AsyncClient, database: Database, publish: Any, builder: Builder
) -> None:
    await publish(flood="")
    (asked,) = await take_all(database)
    await builder.prepare_model(**asked["args"], model="flood", tries=0)
    await publish(flood=f'dissmodel = "{versions}"\n')
    assert (await environment(client))["state"] == "pending"
    (asked,) = await take_all(database)
    await builder.prepare_models(**asked["args"])
    (job,) = await take_all(database)
    await builder.prepare_model(**job["args"])
    assert (await environment(client))["state"] == "ready"
    await builder.prepare_models(**asked["args"])
    assert await take_all(database) == []


@pytest.mark.parametrize("error", [AWAY, StorageError(str(AWAY))])
async def test_a_build_that_the_network_broke_is_tried_again_ever_later_and_not_for_ever(
    error: PlatformError,
    client: httpx.AsyncClient,
    database: Database,
    publish: Any,
    bench: Bench,
    builder: Builder,
) -> None:
    await publish(flood="")
    (asked,) = await take_all(database)
    bench.makes = error
    arguments = {**asked["args"], "model": "flood", "tries": 0}
    for tries, seconds in enumerate(RETRY_SECONDS):
        await builder.prepare_model(**arguments)
        (job,) = await take_all(database)
        assert 0.7 * seconds <= job["seconds"] <= seconds
        assert job["args"] == {**arguments, "tries": tries + 1}
        arguments = job["args"]
        found = await environment(client)
        assert (found["state"], found["error"]) == ("failed", "The index cannot be reached.")
    await builder.prepare_model(**arguments)
    assert await take_all(database) == []
    assert max(RETRY_SECONDS) <= 3600


async def test_models_that_failed_together_are_tried_again_apart(
    database: Database, publish: Any, bench: Bench, builder: Builder
) -> None:
    names = [f"m{number}" for number in range(20)]
    await publish(**dict.fromkeys(names, ""))
    (asked,) = await take_all(database)
    bench.makes = AWAY
    for name in names:
        await builder.prepare_model(**asked["args"], model=name, tries=0)
    seconds = {round(job["seconds"]) for job in await take_all(database)}
    assert len(seconds) > 3


async def test_another_failure_is_not_tried_again(
    database: Database, publish: Any, bench: Bench, builder: Builder
) -> None:
    await publish(flood="")
    (asked,) = await take_all(database)
    bench.makes = BuildFailed("The compiler is missing.")
    await builder.prepare_model(**asked["args"], model="flood", tries=0)
    assert await take_all(database) == []


async def test_a_version_that_works_by_now_or_is_not_served_any_more_is_not_tried_again(
    client: httpx.AsyncClient, database: Database, publish: Any, bench: Bench, builder: Builder
) -> None:
    await publish(flood="", tide="")
    (asked,) = await take_all(database)
    bench.makes = AWAY
    for name in ("flood", "tide"):
        await builder.prepare_model(**asked["args"], model=name, tries=0)
    retries = await take_all(database)
    bench.makes = lock()
    await builder.prepare_model(**asked["args"], model="flood", tries=0)
    await publish(flood="", tide='description = "Corrected."\n')
    await take_all(database)
    bench.makes = BuildFailed("This is not to be tried.")
    for job in retries:
        await builder.prepare_model(**job["args"])
    assert (await environment(client))["state"] == "ready"
    assert (await environment(client, "tide"))["error"] == "The index cannot be reached."


async def test_a_worker_that_is_stopped_leaves_its_build_to_another(
    database: Database, publish: Any, bench: Bench, builder: Builder
) -> None:
    await publish(flood="")
    (asked,) = await take_all(database)
    bench.makes = BuildInterrupted("The worker is being stopped.")
    arguments = {**asked["args"], "model": "flood", "tries": 2}
    with pytest.raises(BuildInterrupted):
        await builder.prepare_model(**{**arguments, "tries": 0})
    (job,) = await take_all(database)
    assert (job["args"], job["seconds"]) == ({**arguments, "tries": 0}, None)


async def test_another_try_that_was_left_off_is_not_taken_for_one_that_goes_on(
    client: httpx.AsyncClient, database: Database, publish: Any, bench: Bench, builder: Builder
) -> None:
    await publish(flood="")
    (asked,) = await take_all(database)
    bench.makes = AWAY
    await builder.prepare_model(**asked["args"], model="flood", tries=0)
    (again,) = await take_all(database)
    bench.makes = BuildInterrupted("The worker is being stopped.")
    with pytest.raises(BuildInterrupted):
        await builder.prepare_model(**again["args"])
    assert (await environment(client))["state"] == "building", "as one who is killed leaves it"
    (job,) = await take_all(database)
    bench.makes = lock()
    await builder.prepare_model(**job["args"])
    assert (await environment(client))["state"] == "ready"


async def test_a_job_waits_until_the_database_is_back(
    database: Database, publish: Any, bench: Bench
) -> None:
    await publish(flood="")
    bench.makes = DatabaseError("PostgreSQL broke off.")

    async def waiting() -> list[dict[str, Any]]:
        return await database.fetch_all(
            "SELECT task_name, attempts FROM procrastinate_jobs"
            " WHERE status = 'todo' AND attempts = 1 AND scheduled_at > now()"
        )

    async with taking_jobs(database, bench), asyncio.timeout(30):
        while not (jobs := await waiting()):
            await asyncio.sleep(0.02)
    assert [job["task_name"] for job in jobs] == ["prepare_model"]


async def test_a_failed_build_says_why_and_can_be_asked_for_again(
    client: httpx.AsyncClient, database: Database, publish: Any, bench: Bench, builder: Builder
) -> None:
    commit = await publish(flood="")
    waiting = {"state": "pending", "key": None, "seconds": None, "error": None}
    (listed,) = (await client.get("/models")).json()["models"]
    assert listed["environment"] == waiting
    (asked,) = await take_all(database)
    bench.makes = BuildFailed("The compiler is missing.", "cc: not found")
    await builder.prepare_model(**asked["args"], model="flood", tries=0)
    failed = {**waiting, "state": "failed", "error": "The compiler is missing."}
    (listed,) = (await client.get("/models")).json()["models"]
    assert listed["environment"] == failed
    assert await environment(client) == {**failed, "output_tail": "cc: not found"}

    answer = await client.post("/models/flood/build")
    assert answer.status_code == 202
    assert (answer.json()["commit"], answer.json()["environment"]) == (commit, waiting)
    bench.makes = lock()
    async with taking_jobs(database, bench), asyncio.timeout(30):
        while (found := await environment(client))["state"] != "ready":
            await asyncio.sleep(0.02)
    ready = {"state": "ready", "key": "a key", "seconds": 1.5, "error": None, "output_tail": None}
    assert found == ready
    assert (await client.post("/models/tide/build")).status_code == 404


@pytest.mark.usefixtures("working")
async def test_the_command_waits_for_the_build(
    database_url: str, publish: Any, bench: Bench, tmp_path: Path
) -> None:
    bench.makes = BuildFailed("The compiler is missing.", "cc: not found")
    await publish(flood="")
    with serving(tmp_path, database_url) as http:
        words = ["models", "build", "flood", "--url", str(http.base_url), "--key", KEY]
        failed = await asyncio.to_thread(CliRunner().invoke, main.app, words)
        assert str(failed.exception) == "The compiler is missing."
        assert "cc: not found" in failed.stderr
        bench.makes = lock()
        done = await asyncio.to_thread(CliRunner().invoke, main.app, words)
    assert (done.exit_code, done.stdout) == (0, "ready\n"), done.output
