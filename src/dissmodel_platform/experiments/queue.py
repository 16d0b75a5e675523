"""The queue: wakes workers. The experiment's row is the truth; a job only points at it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException

from dissmodel_platform.database.pool import Connection, Database
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.types import Priority

RUNS = "runs"
BUILDS = "builds"
RUN_TASK = "run_experiment"
BUILD_TASK = "prepare_models"
MODEL_BUILD_TASK = "prepare_model"
RELOCK_TASK = "relock_model"
WATCH_TASK = "watch"

_BATCH = 500

# The queue's loop looks after its listener and its heartbeats until one of its side tasks has
# ended, and the one that defers periodic tasks ends at once where there are none. A loop that is
# not looked after goes on, deaf to new jobs, once the database has been away for a moment.
_ONCE_A_YEAR = "0 0 1 1 *"


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the queue raises into this package's error; `doing` completes "cannot …"."""
    try:
        yield
    except ConnectorException as error:
        raise DatabaseError(f"The queue cannot {doing}: {error}") from error


async def _nothing(timestamp: int) -> None:
    """Do nothing, once a year."""


async def open_queue(database: Database) -> App:
    """Open the queue on the process's own pool.

    Raises
    ------
    DatabaseError
        PostgreSQL broke off.
    """
    app = App(connector=PsycopgConnector())
    app.periodic(cron=_ONCE_A_YEAR)(app.task(name=WATCH_TASK, queue=RUNS)(_nothing))
    with translated("be opened"):
        await app.open_async(database.pool)
    return app


async def enqueue_run(
    app: App, connection: Connection, experiment_id: str, priority: Priority
) -> int:
    """Insert the job of an experiment on the connection that inserts its row.

    Returns
    -------
    int
        Id of the job.

    Raises
    ------
    DatabaseError
        PostgreSQL broke off.
    """
    deferrer = app.configure_task(
        RUN_TASK,
        queue=RUNS,
        priority=priority.rank,
        connection=connection,
        allow_unknown=True,
    )
    with translated("take a run"):
        return await deferrer.defer_async(experiment_id=experiment_id)


async def enqueue_builds(app: App, connection: Connection, publication: int) -> int:
    """Insert the job that builds the environments of the models that a publication brought.

    Raises
    ------
    DatabaseError
        PostgreSQL broke off.
    """
    deferrer = app.configure_task(
        BUILD_TASK, queue=BUILDS, connection=connection, allow_unknown=True
    )
    with translated("take a build"):
        return await deferrer.defer_async(publication=publication)


async def enqueue_model_builds(
    app: App,
    connection: Connection,
    publication: int,
    models: Sequence[str],
    priority: Priority,
    *,
    tries: int = 0,
    delay_seconds: int = 0,
) -> None:
    """Insert a job for each of these models of a publication, which builds its environment.

    Parameters
    ----------
    tries : int
        How often this has been tried before.
    delay_seconds : int
        How long no worker takes them.

    Raises
    ------
    DatabaseError
        PostgreSQL broke off.
    """
    deferrer = app.configure_task(
        MODEL_BUILD_TASK,
        queue=BUILDS,
        priority=priority.rank,
        connection=connection,
        schedule_in={"seconds": delay_seconds} if delay_seconds else None,
        allow_unknown=True,
    )
    for start in range(0, len(models), _BATCH):
        jobs: list[dict[str, Any]] = [
            {"publication": publication, "model": name, "tries": tries}
            for name in models[start : start + _BATCH]
        ]
        with translated("take builds"):
            await deferrer.batch_defer_async(*jobs)


async def enqueue_relock(app: App, connection: Connection, relock: UUID) -> int:
    """Insert the job that makes a new lock; somebody waits, so it comes before other builds.

    Raises
    ------
    DatabaseError
        PostgreSQL broke off.
    """
    deferrer = app.configure_task(
        RELOCK_TASK,
        queue=BUILDS,
        priority=Priority.HIGH.rank,
        connection=connection,
        allow_unknown=True,
    )
    with translated("take a build"):
        return await deferrer.defer_async(relock=str(relock))


async def cancel_run(app: App, job: int) -> None:
    """Drop the job of a cancelled experiment, if no worker has taken it yet.

    Raises
    ------
    DatabaseError
        PostgreSQL broke off.
    """
    with translated("drop a run"):
        await app.job_manager.cancel_job_by_id_async(job, delete_job=True)
