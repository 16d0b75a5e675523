"""Cancelling, taking away and stopping: the model's processes end, and the state is one's own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.errors import AlreadyFinal
from dissmodel_platform.execution.forkserver import Harness
from dissmodel_platform.services.cancel import cancel_experiment

pytestmark = pytest.mark.anyio


async def test_cancelling_a_run_ends_its_children_and_publishes_nothing(lab: Any) -> None:
    experiment = await lab.submit("spawns")
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "spawned ")
    pids = lab.processes(experiment)
    assert len(pids) == 3
    await cancel_experiment(lab.database, lab.parts.queue, experiment.id)
    await running
    await lab.gone(*pids)
    ended = await lab.get(experiment)
    assert ended.status == "cancelled"
    assert await lab.files(ended) == {}
    with pytest.raises(AlreadyFinal, match="already cancelled"):
        await cancel_experiment(lab.database, lab.parts.queue, experiment.id)


async def test_children_that_a_model_leaves_behind_end_with_its_run(lab: Any) -> None:
    experiment = await lab.run("spawns", {"wait": False})
    assert await lab.result(experiment) == "left them"
    await lab.until(lambda: not lab.processes(experiment))


async def test_a_pending_experiment_that_is_cancelled_never_runs_and_leaves_no_job(
    lab: Any,
) -> None:
    experiment = await lab.submit("draws")
    await cancel_experiment(lab.database, lab.parts.queue, experiment.id)
    await lab.runner().run(experiment.id)
    ended = await lab.get(experiment)
    assert (ended.status, ended.attempt) == ("cancelled", 0)
    jobs = await lab.database.fetch_all(
        "SELECT id FROM procrastinate_jobs WHERE args->>'experiment_id' = %(id)s", id=experiment.id
    )
    assert jobs == []


async def test_a_call_that_is_cancelled_stops_the_model_and_hands_the_experiment_back(
    lab: Any,
) -> None:
    experiment = await lab.submit("waits")
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    [pid] = lab.processes(experiment)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await lab.gone(pid)
    handed_back = await lab.get(experiment)
    assert (handed_back.status, handed_back.worker) == ("pending", None)
    job = await lab.database.fetch_one(
        "SELECT status FROM procrastinate_jobs WHERE id = %(id)s", id=handed_back.queue_job_id
    )
    assert job == {"status": "todo"}
    row = await lab.database.fetch_one(
        "SELECT losses FROM experiments WHERE id = %(id)s", id=experiment.id
    )
    assert row == {"losses": 0}
    await cancel_experiment(lab.database, lab.parts.queue, experiment.id)


async def test_an_attempt_that_was_given_to_another_worker_is_stopped_and_writes_nothing(
    lab: Any,
) -> None:
    experiment = await lab.submit("waits")
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    [pid] = lab.processes(experiment)
    await lab.database.execute(
        "UPDATE experiments SET attempt = 2 WHERE id = %(id)s", id=experiment.id
    )
    before = await lab.log(experiment)
    await running
    await lab.gone(pid)
    assert (await lab.get(experiment)).status == "running"
    assert await lab.log(experiment) == before
    await cancel_experiment(lab.database, lab.parts.queue, experiment.id)


async def test_a_start_that_is_cancelled_leaves_no_run_that_nobody_watches(
    lab: Any,
) -> None:
    prepared = (await lab.run("draws")).outcome["environment_key"]
    server = next(s for name, s in lab.parts.launcher._servers.items() if name[0] == prepared)
    directory = lab.parts.settings.runs_directory / prepared / "a-run"
    starting = asyncio.create_task(server.run(directory, {}))
    while not server.runs:
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.runs == {}
    await lab.until(lambda: not children(innermost(server)))
    assert (await lab.run("draws")).outcome["start_mode"] == "fork"


async def test_many_runs_leave_the_server_with_the_descriptors_it_had(lab: Any) -> None:
    key = (await lab.run("draws")).outcome["environment_key"]
    server = next(s for name, s in lab.parts.launcher._servers.items() if name[0] == key)
    descriptors = Path(f"/proc/{innermost(server)}/fd")
    ours = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    ours_before = len(list(ours.iterdir()))
    for _ in range(20):
        await lab.run("draws")
    assert len(list(descriptors.iterdir())) == before
    assert len(list(ours.iterdir())) <= ours_before + 1  # a pooled connection may be new
    await lab.until(lambda: not children(innermost(server)))
    assert server.runs == {}


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def innermost(server: Harness) -> int:
    """Find the server itself, behind the processes that made its namespaces."""
    pid = server.process.pid
    for _ in range(3 if server.has_namespaces else 0):
        [child] = children(pid)
        pid = int(child)
    return pid
