"""What a paper needs to cite an experiment and a reader to reproduce it."""

from __future__ import annotations

from typing import Any

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.experiments import queries
from dissmodel_platform.types import ExperimentStatus


async def publication_of(database: Database, experiment_id: str) -> dict[str, Any]:
    """Return the provenance of a completed experiment.

    Raises
    ------
    ExperimentNotFound
        There is no such experiment.
    InvalidInput
        It has not completed.
    """
    experiment = await queries.get_experiment(database, experiment_id)
    if experiment.status is not ExperimentStatus.COMPLETED:
        raise InvalidInput(
            f"Experiment {experiment.id} is {experiment.status.value}: only a completed one can be "
            f"published."
        )
    record = experiment.flat_record(
        await queries.log_lines(database, experiment.id),
        await queries.phases_of(database, experiment.id),
    )
    return {**record, "input": {**record["source"], "format": record["input_format"]}}
