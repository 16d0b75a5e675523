"""The worker role, taking real jobs from the queue."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.environments.layout import Layout
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.errors import PlatformError
from dissmodel_platform.experiments.queue import enqueue_run
from dissmodel_platform.experiments.recovery import forget_worker
from dissmodel_platform.services import tidy
from dissmodel_platform.services.cancel import cancel_experiment
from dissmodel_platform.services.metrics import render_metrics
from dissmodel_platform.services.worker import Worker
from dissmodel_platform.settings import Settings

pytestmark = pytest.mark.anyio


Serve = Callable[..., AbstractAsyncContextManager[tuple[Worker, asyncio.Task[None]]]]


@pytest.fixture
def lab(empty_lab: Any) -> Any:
    """Let workers find the experiments of this test alone."""
    return empty_lab


@pytest.fixture
async def worker(lab: Any, serve: Serve) -> AsyncIterator[Worker]:
    async with serve() as (worker, _):
        yield worker


async def test_a_submitted_experiment_is_taken_and_its_job_is_gone_afterwards(
    lab: Any, worker: Worker
) -> None:
    experiment = await lab.ended(await lab.submit("draws"))
    assert experiment.status == "completed"
    assert experiment.worker == str(worker.id)

    async def no_job() -> bool:
        return not await lab.database.fetch_all("SELECT id FROM procrastinate_jobs")

    await lab.until(no_job)


async def test_a_worker_keeps_its_environments_below_their_size(
    lab: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    monkeypatch.setattr(tidy, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(EnvironmentStore, "collect", lambda _, limit: limits.append(limit))
    async with serve(environments_max_bytes=10**12) as (worker, _):
        await lab.until(lambda: limits == [10**12])
        worker._preparer._when_built()
        await lab.until(lambda: limits == [10**12] * 2)


async def test_a_worker_says_at_its_start_what_its_disk_costs(
    lab: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Layout, "faults", lambda _: ["Files cannot be linked."])
    async with serve():
        await lab.until(lambda: "Files cannot be linked." in caplog.messages)


async def test_a_worker_tells_what_its_runs_took_and_how_they_were_started(
    lab: Any, serve: Serve
) -> None:
    await lab.run("draws")  # its environment is there then
    async with serve(worker_slots=2) as (worker, _):
        for _ in range(3):
            assert (await lab.ended(await lab.submit("draws"))).status == "completed"

        async def told() -> str:
            text = (await render_metrics(lab.database)).decode()
            return text if 'fork_server_requests_total{result="hit"} 2.0' in text else ""

        text = await lab.until(told)
        row = await lab.database.fetch_one(
            "SELECT slots FROM workers WHERE id = %(id)s", id=worker.id
        )
        assert row == {"slots": 2}
        assert 'dissmodel_fork_server_requests_total{result="miss"} 1.0' in text
    text = (await render_metrics(lab.database)).decode()  # a worker that ends tells all the rest
    for phase in (
        "building", "staging", "starting", "validate", "load", "run", "save", "collecting",
    ):  # fmt: skip
        assert f'dissmodel_run_phase_seconds_count{{phase="{phase}"}} 3.0' in text


async def test_a_failed_build_is_counted(lab: Any, serve: Serve) -> None:
    async with serve():
        package = "no-such-package-anywhere @ git+file:///nonexistent/repository"
        failed = await lab.ended(await lab.submit("draws", package=package))
        assert failed.status == "failed"
    text = (await render_metrics(lab.database)).decode()
    assert 'dissmodel_environment_build_seconds_count{outcome="failed"} 1.0' in text


async def test_cancelling_reaches_the_worker(lab: Any, worker: Worker) -> None:
    experiment = await lab.submit("waits")
    await lab.wait_for_line(experiment, "waiting as ")
    [pid] = lab.processes(experiment)
    await cancel_experiment(lab.database, lab.parts.queue, experiment.id)
    await lab.gone(pid)
    assert (await lab.get(experiment)).status == "cancelled"
    assert (await lab.ended(await lab.submit("draws"))).status == "completed"


async def test_a_worker_that_is_stopped_lets_its_run_finish(lab: Any, serve: Serve) -> None:
    async with serve(stop_grace_seconds=60.0, worker_timeout_seconds=1.0):
        experiment = await lab.submit("waits", {"seconds": 2})
        await lab.wait_for_line(experiment, "waiting as ")
        waiting = await lab.submit("draws")
    # it was alive for longer than its timeout meanwhile, and took no new work
    ended = await lab.get(experiment)
    assert (ended.status, ended.attempt) == ("completed", 1), await lab.log(experiment)
    assert (await lab.get(waiting)).status == "pending"


async def test_what_does_not_finish_in_time_is_handed_back(lab: Any, serve: Serve) -> None:
    async with serve(stop_grace_seconds=0.2):
        experiment = await lab.submit("waits", {"seconds": 3})
        await lab.wait_for_line(experiment, "waiting as ")
        [pid] = lab.processes(experiment)
    assert not Path(f"/proc/{pid}").exists()
    handed_back = await lab.get(experiment)
    assert (handed_back.status, handed_back.worker) == ("pending", None)
    assert await lab.last_line(experiment) == (
        "Attempt 1 ended because its worker is being stopped; it will be run again."
    )
    async with serve():
        assert (await lab.ended(experiment)).status == "completed"


async def test_a_second_signal_hands_back_at_once(
    lab: Any, start_worker: Any, tmp_path: Path
) -> None:
    worker = start_worker(PLATFORM_STOP_GRACE_SECONDS="3600")
    experiment = await lab.submit("waits")
    await lab.wait_for_line(experiment, "waiting as ")
    [pid] = lab.processes(experiment)
    worker.send(signal.SIGTERM)
    await lab.until(lambda: "may finish" in worker.log.read_text())
    assert (await lab.get(experiment)).status == "running"
    worker.send(signal.SIGINT)
    assert await asyncio.to_thread(worker.process.wait, 60) == 0, worker.log.read_text()
    await lab.gone(pid)
    handed_back = await lab.get(experiment)
    assert (handed_back.status, await _losses(lab, experiment)) == ("pending", 0)


async def test_a_worker_that_was_given_up_ends_itself(lab: Any, serve: Serve) -> None:
    with pytest.raises(PlatformError, match="was taken for dead"):
        async with serve() as (worker, task):
            await lab.until(lambda: _is_known(lab, worker))
            await forget_worker(lab.database, worker.id)
            await asyncio.wait([task])


async def test_runs_go_on_and_jobs_are_taken_again_after_the_database_was_away(
    lab: Any, worker: Worker, postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    running = await lab.submit("waits", {"seconds": 5})
    await lab.wait_for_line(running, "waiting as ")
    row = await lab.database.fetch_one("SELECT current_database() AS name")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        name = sql.Identifier(row["name"])
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [row["name"]],
        )
        await lab.until(lambda: "the queue runs broke off" in caplog.text)
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    following = await lab.submit("draws")
    ended = await lab.ended(running)
    assert (ended.status, ended.attempt) == ("completed", 1), await lab.log(running)
    assert await _losses(lab, running) == 0
    assert (await lab.ended(following)).status == "completed"


async def test_a_job_that_points_at_a_run_in_progress_does_not_disturb_it(
    lab: Any, serve: Serve
) -> None:
    async with serve(worker_slots=2):
        experiment = await lab.submit("waits", {"seconds": 3})
        await lab.wait_for_line(experiment, "waiting as ")
        async with lab.database.transaction() as connection:
            await enqueue_run(lab.parts.queue, connection, experiment.id, experiment.priority)
        ended = await lab.ended(experiment)
    assert (ended.status, ended.attempt) == ("completed", 1), await lab.log(experiment)


async def test_the_run_of_a_killed_worker_ends_with_it_and_is_taken_by_another(
    lab: Any, serve: Serve, start_worker: Any, lab_settings: Settings
) -> None:
    killed = start_worker()
    experiment = await lab.submit("spawns")
    await lab.wait_for_line(experiment, "spawned ")
    pids = lab.processes(experiment)
    assert len(pids) == 3
    [scratch] = lab_settings.runs_directory.glob(f"*/{experiment.id}-1")
    killed.process.kill()
    killed.process.wait()
    await lab.gone(*pids)
    async with serve() as (worker, _):
        await lab.wait_for_line(experiment, "spawned ", attempt=2)
        now = await lab.get(experiment)
        assert (now.status, now.attempt, now.worker) == ("running", 2, str(worker.id))
        told = [line.text for line in await lab.log(experiment) if line.stream == "platform"]
        assert told == [
            "Attempt 1 ended because the worker that ran it is gone; it will be run again."
        ]
        await cancel_experiment(lab.database, lab.parts.queue, experiment.id)
    async with serve():
        await lab.until(lambda: not scratch.exists())
    assert lab.processes(experiment) == []


async def test_what_nobody_runs_any_more_is_cleared_away_when_a_worker_starts(
    lab: Any, serve: Serve, lab_settings: Settings
) -> None:
    stale = lab_settings.runs_directory / "environment" / f"{uuid4().hex}-1"
    (stale / "outputs").mkdir(parents=True)
    experiment = await lab.submit("waits")
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    async with serve():
        await lab.until(lambda: not stale.exists())
        assert list(lab_settings.runs_directory.glob(f"*/{experiment.id}-1"))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def _losses(lab: Any, experiment: Any) -> int:
    row = await lab.database.fetch_one(
        "SELECT losses FROM experiments WHERE id = %(id)s", id=experiment.id
    )
    return int(row["losses"])


async def _is_known(lab: Any, worker: Worker) -> bool:
    row = await lab.database.fetch_one("SELECT 1 FROM workers WHERE id = %(id)s", id=worker.id)
    return row is not None


async def test_a_worker_bounds_its_copies_of_inputs_and_spares_those_in_use(
    lab: Any, serve: Serve, lab_settings: Settings, tmp_path: Path
) -> None:
    cache = lab_settings.input_cache_directory

    def copies(text: str) -> list[Path]:
        return list(cache.glob(f"??/{hashlib.sha256(text.encode()).hexdigest()}"))

    assert (await lab.run("draws")).status == "completed"  # its environment is built
    used, passing = uuid4().hex, uuid4().hex
    async with serve(inputs_max_bytes=1, worker_slots=2):
        once = f"{tmp_path}/waited"[1:]
        waiting = await lab.submit(
            "waits", {"once": once}, input_dataset=await lab.upload(used, "used.txt")
        )
        await lab.wait_for_line(waiting, "waiting as ")
        passed = await lab.submit("draws", input_dataset=await lab.upload(passing, "passing.txt"))
        assert (await lab.ended(passed)).status == "completed"
        await lab.until(lambda: not copies(passing))
        assert copies(used)
        await cancel_experiment(lab.database, lab.parts.queue, waiting.id)
        await lab.until(lambda: not copies(used))
