"""What a worker does with the queue of builds: make environments ahead of need, and new locks."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments import relocks
from dissmodel_platform.environments.relocks import Relock
from dissmodel_platform.errors import (
    BuildInterrupted,
    DatabaseError,
    EnvironmentBuildError,
    PlatformError,
)
from dissmodel_platform.experiments.queue import (
    BUILD_TASK,
    BUILDS,
    RELOCK_TASK,
    enqueue_builds,
    enqueue_relock,
)
from dissmodel_platform.registry.index import get_model, get_publication, models_changed_by
from dissmodel_platform.registry.spec import ModelSpec, parse_spec
from dissmodel_platform.services.prepare import Preparer

log = logging.getLogger(__name__)


class Builder:
    """Does the builds of one worker; what it is stopped at, it leaves to another worker.

    Parameters
    ----------
    database, queue : Database, App
        Opened by the caller.
    preparer : Preparer
        Of this worker.
    """

    def __init__(self, database: Database, queue: App, preparer: Preparer) -> None:
        self._database = database
        self._queue = queue
        self._preparer = preparer

    def take_jobs(self) -> None:
        """Name the methods that the queue's jobs call."""
        queue = self._queue
        queue.task(name=BUILD_TASK, queue=BUILDS)(self.prepare_models)
        queue.task(name=RELOCK_TASK, queue=BUILDS)(self.relock_model)

    async def prepare_models(self, publication: int) -> None:
        """Build the environments of the models that a publication brought."""
        try:
            await self._prepare_each(publication)
        except (BuildInterrupted, asyncio.CancelledError):
            await asyncio.shield(self._leave_models(publication))
            raise

    async def relock_model(self, relock: str) -> None:
        """Make a new lock that somebody asked for."""
        asked = await relocks.find(self._database, UUID(relock))
        if asked is None or asked.state != "waiting":
            return
        try:
            await self._relock(asked)
        except (BuildInterrupted, asyncio.CancelledError):
            await asyncio.shield(self._leave_relock(asked))
            raise

    async def _prepare_each(self, publication: int) -> None:
        for model in await models_changed_by(self._database, publication):
            spec = parse_spec(f"models/{model.name}.toml", model.source_text).spec
            if spec is None or model.environment["state"] == "ready":
                continue
            try:
                await self._preparer.prepare(spec)
                log.info("environment of %s is ready", model.name)
            except BuildInterrupted:
                raise
            except EnvironmentBuildError as error:
                log.warning("environment of %s: %s", model.name, error)

    async def _relock(self, asked: Relock) -> None:
        try:
            spec = await self._spec_at(asked.publication, asked.model_name)
            old, new = await self._preparer.relock(spec)
        except (BuildInterrupted, DatabaseError):
            raise
        except PlatformError as error:
            tail = error.output_tail if isinstance(error, EnvironmentBuildError) else ""
            await relocks.fail(self._database, asked.id, error, tail)
            log.warning("lock of %s: %s", asked.model_name, error)
            return
        await relocks.finish(self._database, asked.id, old, new)
        log.info("lock of %s: %s counts", asked.model_name, new.sha256)

    async def _spec_at(self, publication: int, name: str) -> ModelSpec:
        """Read a model's spec as a publication has it."""
        found = await get_publication(self._database, publication)
        assert found is not None, "the job refers to it"
        model = await get_model(self._database, found, name)
        parsed = parse_spec(f"models/{model.name}.toml", model.source_text)
        if parsed.spec is None:  # published by a version that took what this one refuses
            raise EnvironmentBuildError(
                f"The file of {name!r} cannot be used: {parsed.errors[0].message}"
            )
        return parsed.spec

    async def _leave_models(self, publication: int) -> None:
        async with self._database.transaction() as connection:
            await enqueue_builds(self._queue, connection, publication)

    async def _leave_relock(self, asked: Relock) -> None:
        async with self._database.transaction() as connection:
            await enqueue_relock(self._queue, connection, asked.id)
