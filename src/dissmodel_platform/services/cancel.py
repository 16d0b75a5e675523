"""Cancel an experiment: its row says so, and whoever runs it looks at the row."""

from __future__ import annotations

import contextlib

from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import AlreadyFinal, DatabaseError
from dissmodel_platform.experiments.queries import get_experiment
from dissmodel_platform.experiments.queue import cancel_run
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.transitions import cancel


async def cancel_experiment(database: Database, queue: App, experiment_id: str) -> Experiment:
    """Cancel a pending or running experiment; after this, it publishes nothing.

    A model that runs is stopped within a second, a build or a staging that nobody else waits for
    with its worker's next heartbeat.

    Raises
    ------
    ExperimentNotFound
        There is no such experiment.
    AlreadyFinal
        It has ended.
    """
    found = await get_experiment(database, experiment_id)
    async with database.transaction() as connection:
        cancelled = await cancel(connection, found.id)
    if cancelled is None:
        now = await get_experiment(database, found.id)
        raise AlreadyFinal(
            f"Experiment {found.id} is already {now.status.value}; there is nothing to cancel."
        )
    if cancelled.queue_job_id is not None:
        with contextlib.suppress(DatabaseError):  # a worker that takes it finds it cancelled
            await cancel_run(queue, cancelled.queue_job_id)
    return cancelled
