"""Mend what a crash leaves behind: runs of dead workers, experiments that no job points at."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Container
from datetime import UTC, datetime
from uuid import UUID

from procrastinate import App
from procrastinate.jobs import Status

from dissmodel_platform.database.pool import Connection, Database, execute, fetch_all, fetch_one
from dissmodel_platform.execution.events import LogLine
from dissmodel_platform.experiments.queue import (
    BUILDS,
    RUN_TASK,
    RUNS,
    enqueue_run,
    translated,
)
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.transitions import (
    MOST_LOSSES,
    append_log,
    hand_back,
    set_queue_job,
)

log = logging.getLogger(__name__)

_LOCK = 7_303_114_512  # advisory lock of the reconciler; an arbitrary constant
_LOCK_WAIT = "1s"  # what others hold is mended the next time


async def register_worker(database: Database, worker: UUID, *, slots: int = 1) -> None:
    """Make a worker known; after this, its experiments are its own while it sends heartbeats.

    Parameters
    ----------
    slots : int
        How many runs it takes at the same time; for the figures alone.
    """
    await database.execute(
        "INSERT INTO workers (id, host, pid, slots) VALUES (%(id)s, %(host)s, %(pid)s, %(slots)s)",
        slots=slots,
        id=worker,
        host=socket.gethostname(),
        pid=os.getpid(),
    )


async def send_heartbeat(database: Database, worker: UUID) -> bool:
    """Say that a worker is alive; false when it was given up meanwhile."""
    touched = await database.execute(
        "UPDATE workers SET heartbeat_at = clock_timestamp() WHERE id = %(id)s", id=worker
    )
    return bool(touched)


async def attempts_of(database: Database, worker: UUID) -> set[tuple[str, int]]:
    """Return id and attempt of each experiment that a worker runs, as far as is known here."""
    rows = await database.fetch_all(
        "SELECT id, attempt FROM experiments WHERE status = 'running' AND worker = %(worker)s",
        worker=worker,
    )
    return {(row["id"], row["attempt"]) for row in rows}


async def forget_worker(database: Database, worker: UUID) -> None:
    """Remove a worker; what it still runs is handed back by the next reconciliation."""
    await database.execute("DELETE FROM workers WHERE id = %(id)s", id=worker)


async def forget_process(database: Database, pid: int) -> None:
    """Remove the worker that had this process id on this machine: its supervisor saw it die."""
    await database.execute(
        "DELETE FROM workers WHERE pid = %(pid)s AND host = %(host)s",
        pid=pid,
        host=socket.gethostname(),
    )


async def forget_all_workers(database: Database) -> None:
    """Remove every worker; for a starter who knows that none can be alive."""
    await database.execute("DELETE FROM workers")


async def reconcile(
    database: Database,
    queue: App,
    *,
    worker: UUID,
    active: Container[str],
    worker_timeout_seconds: float | None,
) -> int:
    """Hand back the runs of workers that are gone, and wake workers for what nobody waits for.

    Safe to call from every worker at once: one does the work, the others return.

    Parameters
    ----------
    worker : UUID
        The caller.
    active : container of str
        What it really runs: an experiment that the database believes to run here, and does not,
        is handed back as well.
    worker_timeout_seconds : float or None
        Workers without a heartbeat for so long are given up; ``None``: nobody is, since the caller
        cannot know whether others could have sent one.

    Returns
    -------
    int
        Experiments that were handed back.

    Raises
    ------
    DatabaseError
        PostgreSQL broke off.
    """
    async with database.transaction() as connection:
        row = await fetch_one(
            connection, "SELECT pg_try_advisory_xact_lock(%(lock)s) AS mine", lock=_LOCK
        )
        if row is None or not row["mine"]:
            return 0
        await execute(
            connection, "SELECT set_config('lock_timeout', %(wait)s, true)", wait=_LOCK_WAIT
        )
        if worker_timeout_seconds is not None:
            await _give_up_silent_workers(connection, worker_timeout_seconds)
        candidates = await _maybe_orphaned_runs(connection, worker)
        # `active` is looked at only now: what was claimed here before the rows were read is in it,
        # and what is locked cannot have ended since.
        orphans = [e for e in candidates if e.worker != str(worker) or e.id not in active]
        for experiment in orphans:
            await give_up_attempt(connection, queue, experiment, "the worker that ran it is gone")
        for experiment in await _sleeping(connection):
            await _wake(connection, queue, experiment)
    if worker_timeout_seconds is not None:
        await _finish_stalled_jobs(queue, worker_timeout_seconds)
    return len(orphans)


async def give_up_attempt(
    connection: Connection, queue: App, experiment: Experiment, reason: str, *, lost: bool = True
) -> None:
    """Hand a running attempt back to the queue, or fail it when too many were lost.

    Parameters
    ----------
    lost : bool
        Whether the machinery failed; a worker that is being stopped in good order loses nothing.
    """
    status = await hand_back(connection, experiment, lost=lost)
    if status is None:
        return
    if status == "failed":
        text = (
            f"The run was given up after {MOST_LOSSES} attempts, the last because {reason}; submit "
            f"it again once that is mended."
        )
    else:
        text = f"Attempt {experiment.attempt} ended because {reason}; it will be run again."
        await _wake(connection, queue, experiment)
    line = LogLine("platform", text)
    await append_log(connection, experiment.id, experiment.attempt, [line])
    log.warning("experiment %s: %s", experiment.id, text)


async def _give_up_silent_workers(connection: Connection, seconds: float) -> None:
    """Remove workers without heartbeats; one whose row is locked is sending one just now."""
    await execute(
        connection,
        """
        DELETE FROM workers WHERE id IN (
            SELECT id FROM workers
            WHERE heartbeat_at < clock_timestamp() - make_interval(secs => %(seconds)s)
            FOR UPDATE SKIP LOCKED
        )
        """,
        seconds=seconds,
    )


async def _maybe_orphaned_runs(connection: Connection, worker: UUID) -> list[Experiment]:
    """Lock and return the runs of workers that are gone, and those of the caller."""
    rows = await fetch_all(
        connection,
        """
        SELECT e.* FROM experiments AS e
        WHERE e.status = 'running'
          AND (e.worker = %(worker)s
               OR NOT EXISTS (SELECT FROM workers AS w WHERE w.id = e.worker))
        FOR UPDATE OF e SKIP LOCKED
        """,
        worker=worker,
    )
    return [Experiment.from_row(row) for row in rows]


async def _sleeping(connection: Connection) -> list[Experiment]:
    """Find pending experiments whose job is not waiting in the queue."""
    rows = await fetch_all(
        connection,
        """
        SELECT e.* FROM experiments AS e
        WHERE e.status = 'pending'
          AND e.updated_at < clock_timestamp() - interval '10 seconds'
          AND NOT EXISTS (
              SELECT FROM procrastinate_jobs AS j
              WHERE j.id = e.queue_job_id AND j.status = 'todo'
          )
        FOR UPDATE OF e SKIP LOCKED
        """,
    )
    return [Experiment.from_row(row) for row in rows]


async def _wake(connection: Connection, queue: App, experiment: Experiment) -> None:
    """Insert a job that is due at once, so that the workers which wait are told of it."""
    job = await enqueue_run(queue, connection, experiment.id, experiment.priority)
    await set_queue_job(connection, experiment.id, job)


async def _finish_stalled_jobs(queue: App, seconds: float) -> None:
    """Drop runs' jobs whose worker is gone (their experiments are dealt with); builds go on."""
    manager = queue.job_manager
    with translated("be cleared of stalled jobs"):
        for job in await manager.get_stalled_jobs(
            queue=RUNS, task_name=RUN_TASK, seconds_since_heartbeat=seconds
        ):
            await manager.finish_job(job, Status.ABORTED, delete_job=True)
        for job in await manager.get_stalled_jobs(queue=BUILDS, seconds_since_heartbeat=seconds):
            await manager.retry_job(job, retry_at=datetime.now(UTC))
