"""Runs: submit, follow, list, cancel."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Parts, requires
from dissmodel_platform.api.schemas import (
    Cancelled,
    InlineJobRequest,
    Job,
    JobPage,
    JobRequest,
    Text,
)
from dissmodel_platform.experiments import queries
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.services.cancel import cancel_experiment
from dissmodel_platform.services.submit import RunRequest
from dissmodel_platform.types import ExperimentStatus

router = APIRouter(tags=["runs"])


def job_of(experiment: Experiment, logs: list[str]) -> Job:
    """Return the job object of an experiment."""
    outcome = experiment.outcome
    return Job(
        job_id=experiment.id,
        experiment_id=experiment.id,
        status=experiment.status,
        model_name=experiment.submission.model_name,
        created_at=experiment.created_at,
        output_path=outcome.get("output_path"),
        output_sha256=outcome.get("artifacts", {}).get("output"),
        input_sha256=experiment.input_sha256,
        logs=logs,
        model_commit=experiment.submission.model_commit,
        code_version=outcome.get("code_version", ""),
        started_at=experiment.started_at,
        finished_at=experiment.finished_at,
        progress=experiment.progress,
        warnings=experiment.submission.warnings,
        reproduces=experiment.reproduces,
    )


@router.post("/submit_job", summary="Run a published model")
async def submit_job(
    body: JobRequest, parts: Parts, caller: Annotated[Caller, Depends(requires(Scope.RUN))]
) -> Job:
    """Queue a run; everything that can be checked beforehand has been when this answers."""
    request = RunRequest(
        input_dataset=body.input_dataset,
        input_sha256=body.input_sha256,
        input_format=body.input_format,
        parameters=body.parameters,
        column_map=body.column_map,
        band_map=body.band_map,
        priority=body.priority,
    )
    experiment = await parts.submitter.submit(
        body.model_name, request, submitted_by=caller.name, commit=body.model_commit
    )
    return job_of(experiment, [])


@router.post("/submit_job_inline", summary="Run a spec of your own")
async def submit_job_inline(
    body: InlineJobRequest,
    parts: Parts,
    caller: Annotated[Caller, Depends(requires(Scope.RUN_INLINE))],
) -> Job:
    """Queue a run of a spec that is not in the registry, to try it out."""
    request = RunRequest(
        input_dataset=body.input_dataset,
        input_sha256=body.input_sha256,
        input_format=body.input_format,
        parameters=body.parameters,
        column_map=body.column_map,
        band_map=body.band_map,
    )
    experiment = await parts.submitter.submit_inline(
        body.model_spec_toml, request, submitted_by=caller.name
    )
    return job_of(experiment, [])


@router.get("/job/{experiment_id}", summary="Where a run stands")
async def get_job(
    experiment_id: Text, parts: Parts, _: Annotated[Caller, Depends(requires(Scope.READ))]
) -> Job:
    """Return status, progress, log and result of a run."""
    experiment = await queries.get_experiment(parts.database, experiment_id)
    return job_of(experiment, await queries.log_lines(parts.database, experiment.id))


@router.get("/jobs", summary="List runs, newest first")
async def list_jobs(
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    status: ExperimentStatus | None = None,
    cursor: Annotated[Text | None, Query(description="`next` of the page before.")] = None,
) -> JobPage:
    """Return one page; ``logs`` of a listed run holds its last line only."""
    page, following = await queries.list_experiments(
        parts.database, limit=limit, status=status, cursor=cursor
    )
    logs = await queries.last_log_lines(parts.database, [experiment.id for experiment in page])
    return JobPage(
        experiments=[job_of(experiment, logs.get(experiment.id, [])) for experiment in page],
        total=await queries.count_experiments(parts.database, status),
        next=following,
    )


@router.delete("/job/{experiment_id}", summary="Cancel a run")
async def cancel_job(
    experiment_id: Text, parts: Parts, _: Annotated[Caller, Depends(requires(Scope.RUN))]
) -> Cancelled:
    """Cancel a pending or running experiment; it publishes nothing."""
    cancelled = await cancel_experiment(parts.database, parts.queue, experiment_id)
    return Cancelled(message=f"Experiment {cancelled.id} is cancelled.", experiment_id=cancelled.id)
