"""What administrators do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Parts, requires
from dissmodel_platform.api.schemas import SyncAnswer
from dissmodel_platform.services.sync import ask_for_sync

router = APIRouter(prefix="/admin", tags=["administration"])


@router.post("/sync", summary="Sync the registry now")
async def sync(parts: Parts, _: Annotated[Caller, Depends(requires(Scope.ADMIN))]) -> SyncAnswer:
    """Wait until the sync process has looked at the remote, and say what changed.

    Never answers a success when git failed.
    """
    run = await ask_for_sync(parts.database, "api")
    return SyncAnswer(
        message=run.message,
        git_output=run.git_output,
        run_id=str(run.id),
        old_commit=run.old_commit,
        new_commit=run.new_commit,
        added=run.added,
        changed=run.changed,
        removed=run.removed,
        problems=run.problems,
    )
