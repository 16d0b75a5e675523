"""Runs: submit, follow, list, cancel."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Context, Parts, requires
from dissmodel_platform.api.problems import described
from dissmodel_platform.api.schemas import (
    Cancelled,
    IdempotencyKey,
    InlineJobRequest,
    Job,
    JobPage,
    JobRequest,
    Text,
)
from dissmodel_platform.experiments import queries
from dissmodel_platform.experiments.once import Once
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.services.cancel import cancel_experiment
from dissmodel_platform.services.submit import RunRequest
from dissmodel_platform.types import ExperimentId, ExperimentStatus

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
        expected_end=experiment.expected_end,
        warnings=experiment.warnings,
        reproduces=experiment.reproduces,
    )


async def accepted(parts: Context, experiment: Experiment) -> Job:
    """Return the job object of a submission, which may have been made before and run since."""
    logs = await queries.log_lines(parts.database, experiment.id) if experiment.attempt else []
    return job_of(experiment, logs)


def _once(request: str, body: JobRequest | InlineJobRequest, key: str | None) -> Once | None:
    chosen = ExperimentId(body.experiment_id) if body.experiment_id else None
    return Once.of(request, body.model_dump(mode="json"), key=key, experiment_id=chosen)


_CONFLICT = described({409: "The key or the id stands for another submission"})


@router.post("/submit_job", summary="Run a published model", responses=_CONFLICT)
async def submit_job(
    body: JobRequest,
    parts: Parts,
    caller: Annotated[Caller, Depends(requires(Scope.RUN))],
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Queue a run; everything that can be checked beforehand has been when this answers.

    With an `Idempotency-Key` or an `experiment_id` it can be sent again when its answer was lost.
    """
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
        body.model_name,
        request,
        submitted_by=caller.name,
        commit=body.model_commit,
        once=_once("submit_job", body, idempotency_key),
    )
    return await accepted(parts, experiment)


@router.post("/submit_job_inline", summary="Run a spec of your own", responses=_CONFLICT)
async def submit_job_inline(
    body: InlineJobRequest,
    parts: Parts,
    caller: Annotated[Caller, Depends(requires(Scope.RUN_INLINE))],
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Queue a run of a spec that is not in the registry, to try it out.

    `Idempotency-Key` and `experiment_id` count as in `POST /submit_job`.
    """
    request = RunRequest(
        input_dataset=body.input_dataset,
        input_sha256=body.input_sha256,
        input_format=body.input_format,
        parameters=body.parameters,
        column_map=body.column_map,
        band_map=body.band_map,
    )
    experiment = await parts.submitter.submit_inline(
        body.model_spec_toml,
        request,
        submitted_by=caller.name,
        once=_once("submit_job_inline", body, idempotency_key),
    )
    return await accepted(parts, experiment)


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
