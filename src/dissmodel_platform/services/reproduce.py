"""Run an experiment again, exactly: the stored spec, lock, inputs, seed and record."""

from __future__ import annotations

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.execution.references import InputReference, as_read
from dissmodel_platform.experiments.once import Once
from dissmodel_platform.experiments.queries import get_experiment
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.services.submit import Submitter
from dissmodel_platform.types import ExperimentStatus


async def reproduce(
    database: Database,
    submitter: Submitter,
    experiment_id: str,
    *,
    submitted_by: str,
    once: Once | None = None,
) -> Experiment:
    """Submit a reproduction; its record will say whether the result is identical.

    Parameters
    ----------
    once : Once, optional
        By what it is known again when it is submitted again.

    Raises
    ------
    ExperimentNotFound
        There is no such experiment.
    InvalidInput
        The experiment has no result to compare with.
    SubmissionConflict
        ``once`` stands for another submission.
    """
    original = await get_experiment(database, experiment_id)
    if original.status is not ExperimentStatus.COMPLETED:
        raise InvalidInput(
            f"Experiment {original.id} is {original.status.value}: only a completed one has a "
            f"result to reproduce; submit it anew instead."
        )
    submission = original.submission
    read = original.outcome["inputs"]
    inputs = [as_read(InputReference.from_json(asked), read) for asked in submission.inputs]
    repeated = submission.model_copy(
        update={
            "inputs": [reference.as_json() for reference in inputs],
            "source": submission.source.model_copy(
                update={"checksum": original.input_sha256 or ""}
            ),
            "lock_sha256": original.outcome["lock_sha256"],
            "run_as": submission.run_as or original.id,
            "run_created_at": submission.run_created_at or original.created_at,
        }
    )
    return await submitter.store(
        repeated,
        submitted_by=submitted_by,
        priority=original.priority,
        reproduces=original.id,
        once=once,
    )
