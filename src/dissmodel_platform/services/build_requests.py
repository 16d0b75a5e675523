"""Ask for a build or a new lock of a model; a worker makes it, since that runs foreign code."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments import relocks
from dissmodel_platform.environments.records import forget_failure
from dissmodel_platform.environments.relocks import Relock
from dissmodel_platform.errors import EnvironmentBuildError, NotFound
from dissmodel_platform.experiments.queue import enqueue_model_builds, enqueue_relock
from dissmodel_platform.registry.index import PublishedModel, get_model
from dissmodel_platform.services.locks import published_model
from dissmodel_platform.types import Priority

ANSWER_SECONDS = 120.0
"""How long a caller waits for a worker."""

_POLL_SECONDS = 0.1


async def ask_for_build(
    database: Database, queue: App, name: str, commit: str | None
) -> PublishedModel:
    """Have a worker build a model's environment, before what nobody waits for.

    After this, an environment that could not be built is pending again.

    Returns
    -------
    PublishedModel
        The model, as it stands then.

    Raises
    ------
    ModelNotFound, RevisionNotFound
        The registry has no such model or commit.
    """
    publication, model = await published_model(database, name, commit)
    async with database.transaction() as connection:
        await forget_failure(connection, model.name, model.package)
        await enqueue_model_builds(queue, connection, publication.seq, [model.name], Priority.HIGH)
    return await get_model(database, publication, model.name)


async def ask_for_relock(
    database: Database,
    queue: App,
    name: str,
    commit: str | None,
    *,
    requested_by: str,
    timeout_seconds: float | None = None,
) -> Relock:
    """Have a worker make a new lock, and wait for it.

    Parameters
    ----------
    timeout_seconds : float, optional
        How long; ``ANSWER_SECONDS`` by default. The worker goes on afterwards.

    Raises
    ------
    ModelNotFound, RevisionNotFound
        The registry has no such model or commit.
    EnvironmentBuildError
        There is no new lock; the old one stays.
    """
    publication, model = await published_model(database, name, commit)
    async with database.transaction() as connection:
        asked = await relocks.insert(
            connection, model.name, publication.seq, requested_by=requested_by
        )
        await enqueue_relock(queue, connection, asked)
    deadline = time.monotonic() + (ANSWER_SECONDS if timeout_seconds is None else timeout_seconds)
    while True:
        relock = await find_relock(database, name, asked)
        if relock.state == "failed":
            raise EnvironmentBuildError(relock.message, relock.output_tail)
        if relock.state == "done" or time.monotonic() > deadline:
            return relock
        await asyncio.sleep(_POLL_SECONDS)


async def find_relock(database: Database, name: str, relock: UUID) -> Relock:
    """Return what came of a request for a new lock.

    Raises
    ------
    NotFound
        Nobody asked for it.
    """
    found = await relocks.find(database, relock)
    if found is None or found.model_name != name:
        raise NotFound(f"Nobody asked for a new lock {str(relock)!r} of {name!r}; see its id.")
    return found
