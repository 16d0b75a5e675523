"""Experiments without models: what the tables and the queue do with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.experiments.queue import enqueue_run, open_queue
from dissmodel_platform.experiments.record import Experiment, Source, Submission
from dissmodel_platform.experiments.transitions import insert, set_queue_job
from dissmodel_platform.types import ExperimentId, Priority

Submit = Callable[..., Awaitable[Experiment]]

SUBMISSION = Submission(
    model_name="flood",
    model_commit="local-inline",
    spec_source="[model]\n",
    resolved_spec={"model": {}},
    source=Source(type="s3", uri="s3://dissmodel-inputs/inputs/a/b.zip", checksum="ab" * 32),
    input_format="auto",
    parameters={"end_time": 10},
    column_map={},
    band_map={},
    inputs=[],
    random_seed=7,
)


@pytest.fixture
async def queue(database: Database) -> App:
    return await open_queue(database)


@pytest.fixture
def submit(database: Database, queue: App) -> Submit:
    """Insert an experiment and its job, as the service does."""

    async def submit(priority: Priority = Priority.NORMAL, **changes: Any) -> Experiment:
        async with database.transaction() as connection:
            experiment = await insert(
                connection,
                ExperimentId(uuid4().hex),
                SUBMISSION.model_copy(update=changes),
                submitted_by="a test",
                priority=priority,
            )
            job = await enqueue_run(queue, connection, experiment.id, priority)
            await set_queue_job(connection, experiment.id, job)
        return experiment

    return submit
