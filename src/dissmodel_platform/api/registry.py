"""The registry itself: its problems, its syncs, its catalogue of data sets."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Context, Parts, requires
from dissmodel_platform.api.schemas import (
    Accepted,
    AcceptRequest,
    Catalog,
    RegistryProblem,
    RegistryProblems,
    RegistrySyncs,
    SyncAnswer,
    SyncResult,
)
from dissmodel_platform.registry import holds, index, sync_runs
from dissmodel_platform.services.sync import ask_for_sync, check_accepted

router = APIRouter(tags=["registry"])

MOST_PROBLEMS = 100
"""Problems that the answer to a sync holds; GET /registry/problems has all of them."""


@router.get("/registry/problems", summary="What is wrong with the registry's files")
async def registry_problems(
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int, Query(ge=0, le=2**63 - 1, description="`next` of the page before.")] = 0,
) -> RegistryProblems:
    """Return one page: path, line, column, code and a sentence for each problem.

    They are of the served commit, which the page names; ``total`` counts all of them.
    """
    found = await index.list_problems(parts.database, limit=limit + 1, after=cursor)
    page = found.problems[:limit]
    return RegistryProblems(
        commit=found.revision,
        problems=[RegistryProblem(**row) for row in page],
        total=found.total,
        next=str(page[-1]["id"]) if len(found.problems) > limit else None,
    )


@router.get("/registry/syncs", summary="What the last syncs found")
async def registry_syncs(
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
    before: Annotated[UUID | None, Query(description="Run id; only older ones.")] = None,
) -> RegistrySyncs:
    """Return ended syncs, newest first: trigger, commits, changes by model, problems, errors."""
    runs = await sync_runs.list_runs(
        parts.database, limit=limit, before=str(before) if before else None
    )
    return RegistrySyncs(syncs=[sync_answer(run) for run in runs])


@router.get("/catalog", summary="Data sets that the registry names")
async def catalog(
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
    commit: Annotated[str | None, Query(description="A published commit; the newest.")] = None,
) -> Catalog:
    """Return the sources by name; ``catalog:NAME`` as an ``input_dataset`` refers to one."""
    publication = (
        await index.find_publication(parts.database, commit)
        if commit
        else await index.latest_publication(parts.database)
    )
    if publication is None:
        return Catalog(commit=None, sources={})
    sources: dict[str, Any] = await index.get_catalog(parts.database, publication)
    return Catalog(commit=publication.revision, sources=sources)


@router.post("/admin/sync", summary="Sync the registry now", tags=["administration"])
async def sync(parts: Parts, _: Annotated[Caller, Depends(requires(Scope.ADMIN))]) -> SyncResult:
    """Wait until the sync process has looked at the remote, and say what changed.

    Never answers a success when git failed.
    """
    return await _result(parts, await ask_for_sync(parts.database, "api"))


@router.post("/admin/registry/accept", summary="Publish a held commit", tags=["administration"])
async def accept(
    body: AcceptRequest,
    parts: Parts,
    caller: Annotated[Caller, Depends(requires(Scope.ADMIN))],
) -> Accepted:
    """Accept the commit that waits, and sync; 404 where it is no longer the branch's head."""
    revision = await holds.accept(parts.database, body.commit, accepted_by=caller.name)
    run = await ask_for_sync(parts.database, "accept")
    check_accepted(run, revision)
    return Accepted(accepted_commit=revision, sync=await _result(parts, run))


async def _result(parts: Context, run: sync_runs.SyncRun) -> SyncResult:
    found = await index.list_problems(parts.database, limit=MOST_PROBLEMS)
    problems = [RegistryProblem(**row) for row in found.problems]
    return SyncResult(**sync_answer(run).model_dump(), problems=problems)


def sync_answer(run: sync_runs.SyncRun) -> SyncAnswer:
    """Return a run as the API shows it."""
    shown = {name: value for name, value in vars(run).items() if name not in ("id", "problems")}
    return SyncAnswer(
        message=run.message,
        run_id=str(run.id),
        problem_count=run.problems,
        duration_seconds=run.duration_seconds,
        **shown,
    )
