"""Workers and databases that stop, die or cannot reach each other while a run is in progress."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import PlatformError
from dissmodel_platform.services.run import Runner
from dissmodel_platform.services.worker import Worker
from tests.network import Cut

pytestmark = pytest.mark.anyio

Serve = Callable[..., AbstractAsyncContextManager[tuple[Worker, asyncio.Task[None]]]]


@pytest.fixture
def lab(empty_lab: Any) -> Any:
    """Let workers find the experiments of this test alone."""
    return empty_lab


async def assert_published_once(lab: Any, experiment: Any, result: str) -> None:
    ended = await lab.ended(experiment)
    assert await lab.result(ended) == result
    rows = await lab.database.fetch_all(
        """
        SELECT a.name, o.sha256 FROM artifacts AS a JOIN objects AS o USING (uri)
        WHERE a.experiment_id = %(id)s
        """,
        id=experiment.id,
    )
    assert [row["name"] for row in rows] == ["result.txt"]


async def test_a_run_goes_on_through_a_short_cut_of_the_network_and_no_line_is_lost(
    lab: Any, serve: Serve, database_url: str, tmp_path: Path
) -> None:
    async with (
        Cut(database_url) as network,
        serve(network.url, worker_timeout_seconds=20.0),
    ):
        experiment = await lab.submit("counts", {})
        await lab.wait_for_line(experiment, "count 0")
        network.stop()  # packets are lost
        await asyncio.sleep(1)
        network.go_on()
        count = int((await lab.log(experiment))[-1].text.split()[-1])
        await lab.wait_for_line(experiment, f"count {count + 1}")
        await network.break_off()  # connections are refused
        await asyncio.sleep(1)
        await network.mend()
        count = int((await lab.log(experiment))[-1].text.split()[-1])
        await lab.wait_for_line(experiment, f"count {count + 1}")
        await lab.tell_to_end(experiment)
        ended = await lab.ended(experiment)
    assert (ended.status, ended.attempt) == ("completed", 1), await lab.log(experiment)
    total = int(await lab.result(ended))
    printed = [line.text for line in await lab.log(experiment) if line.stream == "stdout"]
    assert printed == [f"count {number}" for number in range(total)]
    await assert_published_once(lab, experiment, str(total))


async def test_a_worker_that_is_cut_off_for_long_loses_its_run_to_another(
    lab: Any, serve: Serve, database_url: str, tmp_path: Path
) -> None:
    async with Cut(database_url) as network:
        with pytest.raises(PlatformError, match="was taken for dead"):
            async with serve(network.url) as (_, task):
                experiment = await lab.submit("waits")
                await lab.wait_for_line(experiment, "waiting as ")
                [pid] = lab.processes(experiment)
                network.stop()
                async with serve() as (other, _):
                    await lab.tell_to_end(experiment, attempt=2)
                    ended = await lab.ended(experiment)
                    assert (ended.attempt, ended.worker) == (2, str(other.id))
                    network.go_on()
                    await asyncio.wait([task])
        await lab.gone(pid)
    await assert_published_once(lab, experiment, "waited")
    assert await lab.get(experiment) == ended


async def test_a_stopped_worker_that_wakes_after_its_run_was_given_away_changes_nothing(
    lab: Any, serve: Serve, start_worker: Any, tmp_path: Path
) -> None:
    stopped = start_worker()
    experiment = await lab.submit("waits", {"seconds": 3})
    await lab.wait_for_line(experiment, "waiting as ")
    [pid] = lab.processes(experiment)
    stopped.send(signal.SIGSTOP)
    try:
        async with serve():
            await lab.tell_to_end(experiment, attempt=2)
            ended = await lab.ended(experiment)
            assert ended.attempt == 2
            await lab.gone_or_zombie(pid)  # the old attempt has a result by now
            log = await lab.log(experiment)
            stopped.send(signal.SIGCONT)
            assert await asyncio.to_thread(stopped.process.wait, 60) != 0
            assert "was taken for dead" in stopped.log.read_text()
    finally:
        stopped.send(signal.SIGCONT)
    await lab.gone(pid)
    await assert_published_once(lab, experiment, "waited")
    assert await lab.get(experiment) == ended
    assert await lab.log(experiment) == log


async def test_the_model_of_a_stopped_worker_ends_when_the_worker_wakes(
    lab: Any, serve: Serve, start_worker: Any, tmp_path: Path
) -> None:
    stopped = start_worker()
    experiment = await lab.submit("waits")
    await lab.wait_for_line(experiment, "waiting as ")
    [pid] = lab.processes(experiment)
    stopped.send(signal.SIGSTOP)
    try:
        async with serve():
            await lab.tell_to_end(experiment, attempt=2)
            assert (await lab.ended(experiment)).attempt == 2
        assert Path(f"/proc/{pid}").exists()
    finally:
        stopped.send(signal.SIGCONT)
    await lab.gone(pid)
    await assert_published_once(lab, experiment, "waited")


async def test_the_end_of_a_run_waits_for_a_database_that_is_away(
    lab: Any, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Cut(database_url) as network:
        database = Database(network.url)
        database.pool.timeout = 0.5
        await database.open()
        try:
            experiment = await lab.submit("raises", {"waits": True})
            runner = Runner(replace(lab.parts, database=database))
            running = asyncio.create_task(runner.run(experiment.id))

            async def has_begun() -> bool:
                return ((await lab.get(experiment)).progress or {}).get("phase") == "run"

            await lab.until(has_begun)
            await network.break_off()
            await lab.tell_to_end(experiment)
            await lab.until(lambda: "cannot be written" in caplog.text)
            await network.mend()
            await running
        finally:
            await database.close()
    ended = await lab.get(experiment)
    assert (ended.status, ended.attempt) == ("failed", 1)
    assert "the elevation of cell 7 is missing" in await lab.last_line(experiment)


async def test_a_run_survives_a_postgresql_that_is_killed_and_started_again(
    open_lab: Callable[[Database], Awaitable[Any]],
    serve: Serve,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("own") / "pg"
    with EmbeddedPostgres(place) as postgres:
        database = Database(postgres.url)
        await database.open()
        await migrate(database)
        lab = await open_lab(database)
        async with serve(postgres.url, worker_timeout_seconds=20.0):
            experiment = await lab.submit("counts", {})
            await lab.wait_for_line(experiment, "count 0")
            postgres.process.kill()
            postgres.process.wait()
            await asyncio.sleep(0.5)
            postgres.stop()
            await asyncio.to_thread(postgres.start)
            before = len(await lab.log(experiment))
            await lab.wait_for_line(experiment, f"count {before + 1}")
            await lab.tell_to_end(experiment)
            ended = await lab.ended(experiment)
            following = await lab.ended(await lab.submit("draws"))
        assert (ended.attempt, following.status) == (1, "completed")
        await assert_published_once(lab, experiment, await lab.result(ended))
        with suppress(Exception):
            await database.close()
