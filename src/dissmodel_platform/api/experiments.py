"""Experiments: the whole record, artifacts, reproduction, publication."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Parts, requires
from dissmodel_platform.api.jobs import accepted
from dissmodel_platform.api.schemas import Artifact, Artifacts, IdempotencyKey, Job, Text
from dissmodel_platform.experiments import queries
from dissmodel_platform.experiments.once import Once
from dissmodel_platform.services.publish import publication_of
from dissmodel_platform.services.reproduce import reproduce

router = APIRouter(prefix="/experiments", tags=["experiments"])


@router.get("/{experiment_id}", summary="The whole record of an experiment")
async def get_experiment(
    experiment_id: Text, parts: Parts, _: Annotated[Caller, Depends(requires(Scope.READ))]
) -> dict[str, Any]:
    """Return one flat object: dissmodel's record and the platform's provenance side by side."""
    experiment = await queries.get_experiment(parts.database, experiment_id)
    return experiment.flat_record(
        await queries.log_lines(parts.database, experiment.id),
        await queries.phases_of(parts.database, experiment.id),
    )


@router.get("/{experiment_id}/artifacts", summary="The files of a result")
async def get_artifacts(
    experiment_id: Text, parts: Parts, _: Annotated[Caller, Depends(requires(Scope.READ))]
) -> Artifacts:
    """Return name, address, checksum, size and media type of each file, and what maps cover."""
    experiment = await queries.get_experiment(parts.database, experiment_id)
    rows = await queries.list_artifacts(parts.database, experiment.id)
    outputs = experiment.outcome.get("outputs", [])
    spatial = {entry["name"]: entry.get("spatial") for entry in outputs}
    return Artifacts(artifacts=[Artifact(**row, spatial=spatial.get(row["name"])) for row in rows])


@router.post("/{experiment_id}/reproduce", summary="Run an experiment again, exactly")
async def reproduce_experiment(
    experiment_id: Text,
    parts: Parts,
    caller: Annotated[Caller, Depends(requires(Scope.RUN))],
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Queue a run with the stored spec, lock, inputs and seed.

    Its record says, once it has completed, whether the result is identical. With an
    `Idempotency-Key` it can be sent again when its answer was lost.
    """
    experiment = await reproduce(
        parts.database,
        parts.submitter,
        experiment_id,
        submitted_by=caller.name,
        once=Once.of("reproduce", {"experiment_id": experiment_id}, key=idempotency_key),
    )
    return await accepted(parts, experiment)


@router.post("/{experiment_id}/publish", summary="What a paper needs to cite a run")
async def publish_experiment(
    experiment_id: Text, parts: Parts, _: Annotated[Caller, Depends(requires(Scope.READ))]
) -> dict[str, Any]:
    """Return the provenance of a completed experiment as one object."""
    return await publication_of(parts.database, experiment_id)
