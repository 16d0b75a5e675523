"""The worker role, taking real jobs from the queue."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import PlatformError
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.recovery import forget_worker
from dissmodel_platform.services.cancel import cancel_experiment
from dissmodel_platform.services.worker import Worker
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.objects import ObjectStore

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(
    url: str, store: ObjectStore, settings: Settings
) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """Let a worker of its own connections serve while the block runs."""
    database = Database(url)
    await database.open()
    worker = Worker(database, await open_queue(database), store, settings)
    stop = asyncio.Event()
    task = asyncio.create_task(worker.serve(stop))
    try:
        yield worker, task
    finally:
        stop.set()
        try:
            await task
        finally:
            await database.close()


@pytest.fixture
async def worker(
    lab: Any, lab_database_url: str, lab_store: ObjectStore, lab_settings: Settings
) -> AsyncIterator[Worker]:
    async with serving(lab_database_url, lab_store, lab_settings) as (worker, _):
        yield worker


async def ended(lab: Any, experiment: Experiment) -> Experiment:
    while not (now := await lab.get(experiment)).status.is_final:
        await asyncio.sleep(0.02)
    found: Experiment = now
    return found


async def test_a_submitted_experiment_is_taken_and_its_job_is_gone_afterwards(
    lab: Any, worker: Worker
) -> None:
    experiment = await ended(lab, await lab.submit("draws"))
    assert experiment.status == "completed"
    assert experiment.worker == str(worker.id)
    while await _jobs(lab, experiment):
        await asyncio.sleep(0.02)


async def test_cancelling_reaches_the_worker(lab: Any, worker: Worker) -> None:
    experiment = await lab.submit("waits")
    pid = int(await lab.wait_for_line(experiment, "waiting as "))
    await cancel_experiment(lab.database, lab.parts.queue, experiment.id)
    await _gone(pid)
    assert (await lab.get(experiment)).status == "cancelled"
    assert (await ended(lab, await lab.submit("draws"))).status == "completed"


async def test_a_worker_that_is_stopped_hands_its_runs_back_at_once(
    lab: Any, lab_database_url: str, lab_store: ObjectStore, lab_settings: Settings, tmp_path: Path
) -> None:
    async with serving(lab_database_url, lab_store, lab_settings):
        experiment = await lab.submit("waits", {"once": str(tmp_path / "waited")})
        pid = int(await lab.wait_for_line(experiment, "waiting as "))
    assert not Path(f"/proc/{pid}").exists()
    handed_back = await lab.get(experiment)
    assert (handed_back.status, handed_back.worker) == ("pending", None)
    assert await lab.last_line(experiment) == (
        "Attempt 1 ended because its worker is being stopped; it will be run again."
    )
    async with serving(lab_database_url, lab_store, lab_settings):
        assert (await ended(lab, experiment)).status == "completed"


async def test_a_worker_that_was_given_up_ends_itself(
    lab: Any, lab_database_url: str, lab_store: ObjectStore, lab_settings: Settings
) -> None:
    with pytest.raises(PlatformError, match="was taken for dead"):
        async with serving(lab_database_url, lab_store, lab_settings) as (worker, task):
            while not await lab.database.fetch_one(
                "SELECT id FROM workers WHERE id = %(id)s", id=worker.id
            ):
                await asyncio.sleep(0.02)
            await forget_worker(lab.database, worker.id)
            await asyncio.wait([task])


async def test_a_worker_takes_jobs_again_after_the_database_broke_off(
    lab: Any, worker: Worker
) -> None:
    assert (await ended(lab, await lab.submit("draws"))).status == "completed"
    await lab.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    experiment = await lab.submit("draws")
    assert (await ended(lab, experiment)).status == "completed"
    await lab.database.execute(  # the queue's listener alone
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query ILIKE 'listen%%' AND datname = current_database()"
    )
    assert (await ended(lab, await lab.submit("draws"))).status == "completed"


async def test_a_job_that_points_at_a_run_in_progress_does_not_disturb_it(
    lab: Any, lab_database_url: str, lab_store: ObjectStore, lab_settings: Settings
) -> None:
    two = lab_settings.model_copy(update={"worker_slots": 2})
    async with serving(lab_database_url, lab_store, two):
        experiment = await lab.submit("waits", {"seconds": 3})
        await lab.wait_for_line(experiment, "waiting as ")
        async with lab.database.transaction() as connection:
            from dissmodel_platform.experiments.queue import enqueue_run

            await enqueue_run(lab.parts.queue, connection, experiment.id, experiment.priority)
        done = await ended(lab, experiment)
    assert (done.status, done.attempt) == ("completed", 1), await lab.log(experiment)


async def test_the_run_of_a_killed_worker_ends_with_it_and_is_taken_by_another(
    lab: Any,
    lab_database_url: str,
    lab_store: ObjectStore,
    lab_settings: Settings,
    tmp_path: Path,
) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-m", "dissmodel_platform", "worker"],
        env={
            **os.environ,
            "PLATFORM_HOME": str(lab_settings.home),
            "PLATFORM_ALLOW_LOCAL_PACKAGES": "true",
            "PLATFORM_WORKER_TIMEOUT_SECONDS": "2",
            "PLATFORM_SANDBOX": "off",
            "DATABASE_URL": lab_database_url,
        },
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "worker.log").open("wb"),
        start_new_session=True,
    )
    try:
        experiment = await lab.submit("spawns", {"once": str(tmp_path / "waited")})
        pids = (await lab.wait_for_line(experiment, "spawned ")).split()
        scratch = lab_settings.runs_directory / f"{experiment.id}-1"
        assert scratch.is_dir()
    finally:
        killed.kill()
        killed.wait()
    await _gone(int(pids[0]))
    async with serving(lab_database_url, lab_store, lab_settings) as (worker, _):
        await lab.wait_for_line(experiment, "spawned ", attempt=2)
        now = await lab.get(experiment)
        assert (now.status, now.attempt, now.worker) == ("running", 2, str(worker.id))
        told = [line.text for line in await lab.log(experiment) if line.stream == "platform"]
        assert told == [
            "Attempt 1 ended because the worker that ran it is gone; it will be run again."
        ]
        await cancel_experiment(lab.database, lab.parts.queue, experiment.id)
    async with serving(lab_database_url, lab_store, lab_settings):
        while scratch.exists():
            await asyncio.sleep(0.02)
    for pid in pids[1:]:  # processes that a killed worker's run had started itself
        if Path(f"/proc/{pid}").exists():
            os.kill(int(pid), signal.SIGKILL)


async def test_what_nobody_runs_any_more_is_cleared_away_when_a_worker_starts(
    lab: Any, lab_database_url: str, lab_store: ObjectStore, lab_settings: Settings
) -> None:
    stale = lab_settings.runs_directory / f"{uuid4().hex}-1"
    (stale / "outputs").mkdir(parents=True)
    experiment = await lab.submit("waits")
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    async with serving(lab_database_url, lab_store, lab_settings):
        while stale.exists():
            await asyncio.sleep(0.02)
        assert (lab_settings.runs_directory / f"{experiment.id}-1").is_dir()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await cancel_experiment(lab.database, lab.parts.queue, experiment.id)


async def _jobs(lab: Any, experiment: Experiment) -> list[Any]:
    rows: list[Any] = await lab.database.fetch_all(
        "SELECT id, status FROM procrastinate_jobs WHERE args->>'experiment_id' = %(id)s",
        id=experiment.id,
    )
    return rows


async def _gone(pid: int) -> None:
    while Path(f"/proc/{pid}").exists():
        await asyncio.sleep(0.02)
