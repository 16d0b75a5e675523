"""What a worker does with the queue of builds: make environments ahead of need, and new locks."""

from __future__ import annotations

import asyncio
import logging
import random
from uuid import UUID

from procrastinate import App, RetryStrategy

from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments import relocks
from dissmodel_platform.environments.relocks import Relock
from dissmodel_platform.errors import (
    BuildInterrupted,
    DatabaseError,
    EnvironmentBuildError,
    ModelNotFound,
    PackageUnreachable,
    PlatformError,
    StorageError,
)
from dissmodel_platform.experiments.queue import (
    BUILD_TASK,
    BUILDS,
    MODEL_BUILD_TASK,
    RELOCK_TASK,
    enqueue_model_builds,
    enqueue_relock,
)
from dissmodel_platform.registry.index import (
    get_model,
    get_publication,
    latest_publication,
    unready_models_of,
)
from dissmodel_platform.registry.spec import ModelSpec, parse_spec
from dissmodel_platform.services.prepare import Preparer
from dissmodel_platform.types import Priority

RETRY_SECONDS = (30, 120, 480, 1_800, 3_600)
"""Pauses before a build is tried again that failed because of the network or the store."""

_WHEN_THE_DATABASE_BROKE_OFF = RetryStrategy(
    max_attempts=20, wait=5, linear_wait=15, retry_exceptions={DatabaseError}
)

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
        for name, method in (
            (BUILD_TASK, self.prepare_models),
            (MODEL_BUILD_TASK, self.prepare_model),
            (RELOCK_TASK, self.relock_model),
        ):
            self._queue.task(name=name, queue=BUILDS, retry=_WHEN_THE_DATABASE_BROKE_OFF)(method)

    async def prepare_models(self, publication: int) -> None:
        """Have the environments built of the models that a publication brought.

        Each is a job of its own, so that workers share them, and what somebody waits for does not
        wait for all of them.
        """
        names = await unready_models_of(self._database, publication)
        async with self._database.transaction() as connection:
            await enqueue_model_builds(self._queue, connection, publication, names, Priority.LOW)

    async def prepare_model(self, publication: int, model: str, tries: int) -> None:
        """Build the environment of one model.

        Where the network or the object store is the cause of a failure, it is tried again later,
        some times.

        Parameters
        ----------
        tries : int
            How often this has been tried before.
        """
        try:
            if tries == 0 or await self._is_still_missing(publication, model):
                await self._preparer.prepare(await self._spec_at(publication, model))
                log.info("environment of %s is ready", model)
        except (BuildInterrupted, asyncio.CancelledError):
            again = self._enqueue_model(publication, model, Priority.HIGH, tries=tries)
            await asyncio.shield(again)
            raise
        except (PackageUnreachable, StorageError) as error:
            log.warning("environment of %s: %s", model, error)
            if tries < len(RETRY_SECONDS):
                seconds = _pause_seconds(tries)
                log.info("environment of %s is tried again in %d s", model, seconds)
                await self._enqueue_model(
                    publication, model, Priority.LOW, tries=tries + 1, delay_seconds=seconds
                )
        except DatabaseError:
            raise
        except PlatformError as error:
            log.warning("environment of %s: %s", model, error)

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

    async def _is_still_missing(self, publication: int, name: str) -> bool:
        """Say whether a version that failed is served still, and does not work as far as is known.

        Somebody who is said to build it may have been killed.
        """
        latest = await latest_publication(self._database)
        tried = await get_publication(self._database, publication)
        assert latest is not None and tried is not None, "the job refers to it"
        try:
            served = await get_model(self._database, latest, name)
        except ModelNotFound:
            return False
        model = await get_model(self._database, tried, name)
        return served.source_text == model.source_text and served.environment["state"] != "ready"

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

    async def _enqueue_model(
        self,
        publication: int,
        model: str,
        priority: Priority,
        *,
        tries: int,
        delay_seconds: int = 0,
    ) -> None:
        async with self._database.transaction() as connection:
            await enqueue_model_builds(
                self._queue, connection, publication, [model], priority,
                tries=tries, delay_seconds=delay_seconds,
            )  # fmt: skip

    async def _leave_relock(self, asked: Relock) -> None:
        async with self._database.transaction() as connection:
            await enqueue_relock(self._queue, connection, asked.id)


def _pause_seconds(tries: int) -> int:
    """Return how long to wait for the next try; models that failed together are spread."""
    return round(RETRY_SECONDS[tries] * random.uniform(0.75, 1.0))  # noqa: S311 - no secret
