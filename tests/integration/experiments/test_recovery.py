"""What a crash leaves behind is found and mended, once, and nothing else is touched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from procrastinate import App

from dissmodel_platform.database import pool
from dissmodel_platform.database.pool import Database, execute
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.execution.paths import SERVERS
from dissmodel_platform.experiments import recovery
from dissmodel_platform.experiments.queries import get_experiment, log_lines
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.recovery import (
    forget_all_workers,
    forget_process,
    forget_worker,
    reconcile,
    register_worker,
    send_heartbeat,
)
from dissmodel_platform.experiments.transitions import MOST_LOSSES, claim
from dissmodel_platform.services import tidy
from dissmodel_platform.services.tidy import keep_scratch_tidy, remove_stale_scratch

pytestmark = pytest.mark.anyio

Submit = Callable[..., Awaitable[Experiment]]
TIMEOUT_SECONDS = 30.0


@pytest.fixture
async def worker(database: Database) -> UUID:
    """Register the worker that reconciles."""
    worker = uuid4()
    await register_worker(database, worker)
    return worker


@pytest.fixture
async def mend(database: Database, queue: App, worker: UUID) -> Callable[..., Awaitable[int]]:
    async def mend(*active: str) -> int:
        return await reconcile(
            database,
            queue,
            worker=worker,
            active=set(active),
            worker_timeout_seconds=TIMEOUT_SECONDS,
        )

    return mend


Mend = Callable[..., Awaitable[int]]


async def job_of(database: Database, experiment: Experiment) -> dict[str, object]:
    row = await database.fetch_one(
        """
        SELECT j.status::text, j.scheduled_at > now() AS later
        FROM experiments AS e JOIN procrastinate_jobs AS j ON j.id = e.queue_job_id
        WHERE e.id = %(id)s
        """,
        id=experiment.id,
    )
    assert row is not None
    return row


async def grow_old(database: Database, experiment: Experiment) -> None:
    await database.execute(
        "UPDATE experiments SET updated_at = now() - interval '1 minute' WHERE id = %(id)s",
        id=experiment.id,
    )


async def fetch_job(database: Database, queue: App) -> None:
    """Take the next job as a worker would, and forget about it."""
    queue_worker = await queue.job_manager.register_worker()
    assert await queue.job_manager.fetch_job(queues=None, worker_id=queue_worker) is not None
    await database.execute(
        "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'"
    )


async def test_the_run_of_a_worker_that_is_gone_is_handed_back_with_a_job(
    database: Database, submit: Submit, mend: Mend
) -> None:
    experiment = await submit()
    gone = uuid4()
    await register_worker(database, gone)
    await claim(database, experiment.id, gone)
    assert await mend() == 0
    await forget_worker(database, gone)
    assert await mend() == 1
    again = await get_experiment(database, experiment.id)
    assert (again.status, again.worker) == ("pending", None)
    assert await log_lines(database, experiment.id) == [
        "Attempt 1 ended because the worker that ran it is gone; it will be run again."
    ]
    assert await job_of(database, experiment) == {"status": "todo", "later": None}
    assert await mend() == 0


async def test_a_worker_without_heartbeats_is_given_up_and_told_so(
    database: Database, submit: Submit, mend: Mend
) -> None:
    experiment = await submit()
    silent = uuid4()
    await register_worker(database, silent)
    await claim(database, experiment.id, silent)
    await database.execute(
        "UPDATE workers SET heartbeat_at = now() - interval '31 seconds' WHERE id = %(id)s",
        id=silent,
    )
    assert await mend() == 1
    assert not await send_heartbeat(database, silent)


async def test_an_experiment_that_its_worker_does_not_run_is_handed_back(
    database: Database, submit: Submit, mend: Mend, worker: UUID
) -> None:
    running, forgotten = await submit(), await submit()
    for experiment in (running, forgotten):
        await claim(database, experiment.id, worker)
    assert await mend(running.id) == 1
    assert (await get_experiment(database, running.id)).status == "running"
    assert (await get_experiment(database, forgotten.id)).status == "pending"


async def test_a_run_that_was_claimed_while_the_reconciler_reads_is_left_alone(
    database: Database, queue: App, submit: Submit, worker: UUID
) -> None:
    """Claims go on while reconciliations look at the same, growing set of active runs."""
    active: set[str] = set()
    handed_back = 0

    async def work() -> None:
        for _ in range(30):
            experiment = await submit()
            active.add(experiment.id)
            assert await claim(database, experiment.id, worker) is not None

    working = asyncio.create_task(work())
    while not working.done():
        handed_back += await reconcile(
            database, queue, worker=worker, active=active, worker_timeout_seconds=TIMEOUT_SECONDS
        )
    await working
    assert handed_back == 0


async def test_runs_of_other_workers_that_are_alive_are_left_alone(
    database: Database, submit: Submit, mend: Mend
) -> None:
    other = uuid4()
    await register_worker(database, other)
    experiment = await submit()
    await claim(database, experiment.id, other)
    assert await mend() == 0
    assert (await get_experiment(database, experiment.id)).worker == str(other)


async def test_a_run_that_is_lost_too_often_fails_with_the_reason(
    database: Database, submit: Submit, mend: Mend
) -> None:
    experiment = await submit()
    for _ in range(MOST_LOSSES):
        assert await claim(database, experiment.id, uuid4()) is not None
        assert await mend() == 1
    ended = await get_experiment(database, experiment.id)
    assert (ended.status, ended.attempt) == ("failed", MOST_LOSSES)
    assert (await log_lines(database, experiment.id))[-1].startswith(
        f"The run was given up after {MOST_LOSSES} attempts, the last because the worker"
    )


async def test_a_pending_experiment_whose_job_is_lost_gets_another(
    database: Database, queue: App, submit: Submit, mend: Mend
) -> None:
    without, taken, waiting = await submit(), await submit(), await submit()
    await database.execute(
        "DELETE FROM procrastinate_jobs WHERE id = %(id)s",
        id=(await get_experiment(database, without.id)).queue_job_id,
    )
    await fetch_job(database, queue)  # that of `taken`, by a worker that died before its claim
    before = await get_experiment(database, waiting.id)
    assert await mend() == 0  # they may be on their way
    assert (await get_experiment(database, without.id)).queue_job_id is not None
    for experiment in (without, taken, waiting):
        await grow_old(database, experiment)
    await mend()
    for experiment in (without, taken):
        assert await job_of(database, experiment) == {"status": "todo", "later": None}
    assert await get_experiment(database, waiting.id) == before


async def test_jobs_of_dead_workers_are_dropped_since_their_experiments_have_others(
    database: Database, queue: App, submit: Submit, mend: Mend
) -> None:
    experiment = await submit()
    await fetch_job(database, queue)
    await claim(database, experiment.id, uuid4())
    await mend()
    rows = await database.fetch_all("SELECT status::text FROM procrastinate_jobs")
    assert [row["status"] for row in rows] == ["todo"]


async def test_several_reconcilers_at_once_hand_a_run_back_once(
    database: Database, submit: Submit, mend: Mend
) -> None:
    for _ in range(5):
        experiment = await submit()
        await claim(database, experiment.id, uuid4())
        handed_back = await asyncio.gather(*(mend() for _ in range(4)))
        assert sum(handed_back) == 1
        row = await database.fetch_one(
            "SELECT losses FROM experiments WHERE id = %(id)s", id=experiment.id
        )
        assert row == {"losses": 1}


async def test_a_supervisor_removes_the_worker_that_it_saw_die(database: Database) -> None:
    mine, other = uuid4(), uuid4()
    await register_worker(database, mine)
    await register_worker(database, other)
    await database.execute("UPDATE workers SET pid = 1 WHERE id = %(id)s", id=other)
    await forget_process(database, os.getpid())
    assert not await send_heartbeat(database, mine)
    assert await send_heartbeat(database, other)
    await forget_all_workers(database)
    assert not await send_heartbeat(database, other)


async def test_scratch_of_attempts_that_run_stays_and_all_other_goes(
    database: Database, submit: Submit, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    experiment = await submit()
    await claim(database, experiment.id, uuid4())
    for name in (f"{experiment.id}-1", f"{experiment.id}-2", f"{uuid4().hex}-1"):
        (runs / "environment" / name / "outputs").mkdir(parents=True)
    (runs / "environment" / SERVERS / "left").mkdir(parents=True)
    await remove_stale_scratch(database, runs)
    left = {str(path.relative_to(runs / "environment")) for path in runs.glob("*/*")}
    assert left == {f"{experiment.id}-1", SERVERS}
    assert list(runs.glob(f"*/{SERVERS}/*")) == []
    await remove_stale_scratch(database, runs / "none")


async def test_scratch_that_is_left_later_goes_too_also_where_a_run_has_closed_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidy, "_SCRATCH_SECONDS", 0.01)
    tidying = asyncio.create_task(keep_scratch_tidy(database, tmp_path))
    for number in (1, 2):
        left = tmp_path / "environment" / f"{uuid4().hex}-{number}"
        (left / "outputs" / "closed").mkdir(parents=True)
        (left / "outputs" / "closed").chmod(0)
        async with asyncio.timeout(30):
            while left.exists():
                await asyncio.sleep(0.01)
    tidying.cancel()


async def test_workers_are_not_given_up_by_one_that_could_not_know(
    database: Database, queue: App, submit: Submit, worker: UUID
) -> None:
    experiment = await submit()
    silent = uuid4()
    await register_worker(database, silent)
    await claim(database, experiment.id, silent)
    await database.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour'")
    assert (
        await reconcile(database, queue, worker=worker, active=(), worker_timeout_seconds=None) == 0
    )
    assert await send_heartbeat(database, silent)


async def test_a_session_that_stopped_inside_a_reconciliation_does_not_stop_others(
    database_url: str, database: Database, submit: Submit, mend: Mend, monkeypatch: Any
) -> None:
    experiment = await submit()
    await claim(database, experiment.id, uuid4())
    monkeypatch.setitem(pool._SERVER_SIDE, "idle_in_transaction_session_timeout", "500ms")
    stopping = Database(database_url)
    await stopping.open()
    with pytest.raises(DatabaseError):
        async with stopping.transaction() as stopped:
            await execute(stopped, "SELECT pg_advisory_xact_lock(%(lock)s)", lock=recovery._LOCK)
            await execute(stopped, "SELECT * FROM experiments FOR UPDATE")
            await execute(stopped, "UPDATE workers SET heartbeat_at = clock_timestamp()")
            assert await mend() == 0
            async with asyncio.timeout(30):
                while await mend() == 0:
                    await asyncio.sleep(0.05)
            await execute(stopped, "SELECT 1")
    await stopping.close()
    assert (await get_experiment(database, experiment.id)).status == "pending"


async def test_a_worker_whose_row_is_locked_stops_no_reconciliation(
    database: Database, submit: Submit, mend: Mend
) -> None:
    experiment, silent, stopped = await submit(), uuid4(), uuid4()
    await claim(database, experiment.id, silent)
    for other in (silent, stopped):
        await register_worker(database, other)
    await database.execute(
        "UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE id IN (%(a)s, %(b)s)",
        a=silent,
        b=stopped,
    )
    async with database.transaction() as connection:
        await execute(connection, "SELECT FROM workers WHERE id = %(id)s FOR UPDATE", id=stopped)
        assert await mend() == 1
