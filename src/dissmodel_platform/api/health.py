"""Health and metrics."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from dissmodel_platform import __version__
from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Parts, requires
from dissmodel_platform.api.schemas import Health
from dissmodel_platform.errors import DatabaseError, StorageError
from dissmodel_platform.registry.git_faults import advice_in
from dissmodel_platform.registry.holds import waiting_hold
from dissmodel_platform.registry.index import latest_publication
from dissmodel_platform.registry.sync_runs import last_runs
from dissmodel_platform.services.metrics import render_metrics

log = logging.getLogger(__name__)

router = APIRouter(tags=["operation"])

_DATABASE_SECONDS = 5.0  # whoever asks for health gives up soon; the pool would wait for longer


@router.get(
    "/health",
    summary="Whether the platform works",
    response_model=Health,
    responses={503: {"model": Health, "description": "Database or store out of reach"}},
)
async def health(parts: Parts) -> Response:
    """Answer 200 whenever the API reaches its database and store, also before the first sync.

    Anybody may ask, so a reason tells the kind of a fault, and no address.
    """
    reasons: list[str] = []
    commit = last_success = None
    reachable = True
    try:
        async with asyncio.timeout(_DATABASE_SECONDS):
            publication = await latest_publication(parts.database)
            runs = await last_runs(parts.database)
            held = await waiting_hold(parts.database)
        last_success = runs["last_success"]
        if publication is None:
            reasons.append("No commit of the registry has been published yet.")
        else:
            commit = publication.revision
        if held is not None:
            reasons.append(
                f"Commit {held.revision} waits to be accepted: {held.reason} Accept it with "
                f"`dissmodel-platform registry accept {held.revision}`."
            )
        if runs["age_seconds"] is not None and runs["age_seconds"] > _stale_after(parts):
            reasons.append(
                f"The registry was last synced {runs['age_seconds'] / 60:.0f} minutes ago; is the "
                f"sync process running?"
            )
        if runs["error"]:
            reasons.append(_sync_failure(runs["error"]))
    except DatabaseError as error:
        reachable = False
        log.warning("%s", error)
        reasons.append("PostgreSQL cannot be reached; the log of the api says why.")
    except TimeoutError:
        reachable = False
        reasons.append(f"PostgreSQL did not answer within {_DATABASE_SECONDS:g} s.")
    try:
        await parts.store.check()
    except StorageError as error:
        reachable = False
        log.warning("%s", error)
        reasons.append("The object store cannot be used; the log of the api says why.")
    body = Health(
        status="healthy" if reachable else "unhealthy",
        ready=reachable and commit is not None,
        reasons=reasons,
        version=__version__,
        registry_commit=commit,
        last_success=last_success,
        walls={"builds": list(parts.walls.builds), "runs": list(parts.walls.runs)},
        missing_walls=list(parts.walls.missing),
    )
    return JSONResponse(body.model_dump(mode="json"), status_code=200 if reachable else 503)


def _sync_failure(error: str) -> str:
    """Return the kind of fault of a sync that failed; what git said may name a private address."""
    advice = advice_in(error)
    kind = f": {advice}" if advice else ""
    return f"The last registry sync failed{kind}. GET /registry/syncs has the whole reason."


def _stale_after(parts: Parts) -> float:
    """Return the age of the last successful sync, in seconds, from which on it is worth a word."""
    settings = parts.settings
    return settings.registry_stale_seconds or 4 * settings.configs_sync_interval


@router.head("/health", summary="Whether the platform works, in the status alone")
async def head_health(parts: Parts) -> Response:
    """Answer as GET does, without the body."""
    return await health(parts)


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
async def metrics(parts: Parts, _: Annotated[Caller, Depends(requires(Scope.READ))]) -> Response:
    """Return the figures in Prometheus' text format."""
    return Response(await render_metrics(parts.database), media_type=CONTENT_TYPE_LATEST)
