"""How soon the death of a worker is mended, by the settings' defaults."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.services.in_progress import RunsInProgress
from dissmodel_platform.services.worker import heartbeat_seconds, longest_absence_seconds
from dissmodel_platform.settings import Settings


def test_the_runs_of_a_dead_worker_are_taken_again_within_half_a_minute(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert longest_absence_seconds(settings) <= 30
    assert 3 * heartbeat_seconds(settings) < settings.worker_timeout_seconds


@pytest.mark.anyio
async def test_a_worker_has_no_more_runs_than_slots_and_they_outlive_who_started_them() -> None:
    release = {name: asyncio.Event() for name in "abc"}

    async def run(experiment_id: str) -> None:
        await release[experiment_id].wait()
        if experiment_id == "a":
            raise DatabaseError("it went away")

    runs = RunsInProgress(run, 2, stop_seconds=1)

    async def job(experiment_id: str) -> None:
        runs.start(experiment_id)
        await runs.room()

    await job("a")
    second = asyncio.create_task(job("b"))
    await asyncio.sleep(0.05)
    assert not second.done(), "there is no room for a third"
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert ("a" in runs, "b" in runs, len(runs)) == (True, True, 2)
    release["a"].set()
    await runs.room()
    assert ("a" in runs, "b" in runs) == (False, True)
    runs.start("b")  # a second job for the same experiment
    release["b"].set()
    await runs.ended()
    assert not runs


@pytest.mark.anyio
async def test_a_run_that_swallows_the_cancellation_is_cancelled_again() -> None:
    cancelled = 0

    async def run(experiment_id: str) -> None:
        nonlocal cancelled
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled += 1
                if cancelled == 2:
                    raise

    runs = RunsInProgress(run, 1, stop_seconds=0.05)
    runs.start("a")
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await runs.hand_back()
    assert cancelled == 2
