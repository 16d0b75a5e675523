"""A platform for one check: its own database and store, and the services of a real run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.execution.headers.reader import HeaderReader
from dissmodel_platform.execution.input_cache import InputCache
from dissmodel_platform.execution.input_rules import InputRules
from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.execution.staging import Stager
from dissmodel_platform.experiments.queries import get_experiment, log_lines
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.registry.published_catalog import publish_catalog
from dissmodel_platform.registry.publishing import (
    Diff,
    begin_publication,
    publish_models,
)
from dissmodel_platform.registry.snapshot import ModelReading, SnapshotChange, in_batches
from dissmodel_platform.registry.spec import ModelSpec
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.package_policy import package_policy
from dissmodel_platform.services.prepare import Prepared, Preparer, open_environments
from dissmodel_platform.services.run import Runner, RunnerParts
from dissmodel_platform.services.submit import RunRequest, Submitter
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.objects import open_object_store
from dissmodel_platform.storage.tasks import see_through

_SUBMITTED_BY = "registry check"


@dataclass(frozen=True)
class TrialRun:
    """How a run ended.

    Attributes
    ----------
    experiment : Experiment
        In a final state.
    log : list of str
        Its lines, oldest first.
    seconds : float
        From submission to the end.
    """

    experiment: Experiment
    log: list[str]
    seconds: float


@dataclass(frozen=True)
class Trial:
    """The services of a worker and an API, in this process; made by `open_trial`."""

    database: Database
    environments: EnvironmentStore
    preparer: Preparer
    submitter: Submitter
    runner: Runner

    async def publish(
        self, change: SnapshotChange, readings: Iterable[ModelReading], catalog: bytes | None
    ) -> None:
        """Publish a commit in the trial's own database, as a sync would."""
        async with self.database.transaction() as connection:
            publication = await begin_publication(
                connection, change, after=None, reads_catalog=True
            )
            batches = in_batches(readings)
            while batch := await see_through(asyncio.to_thread(next, batches, None)):
                await publish_models(connection, publication, batch, Diff())
            await publish_catalog(connection, publication, change, catalog)

    async def prepare(self, spec: ModelSpec) -> Prepared:
        """Resolve and build a model's package.

        Raises
        ------
        EnvironmentBuildError
            One of its kinds.
        """
        return await self.preparer.prepare(spec)

    async def inspect(self, spec: ModelSpec, prepared: Prepared) -> tuple[dict[str, Any], str]:
        """Import a model's executors; returns what `EnvironmentStore.inspect` does.

        Raises
        ------
        BuildFailed
            The interpreter died or did not end in time.
        """
        module = spec.executor_module or ""
        return await asyncio.to_thread(self.environments.inspect, prepared.environment, module)

    async def run(self, model_name: str, request: RunRequest) -> TrialRun:
        """Submit a run of a published model and see it through.

        Raises
        ------
        InvalidInput
            The request is refused; names each faulty field.
        """
        begin = time.perf_counter()
        accepted = await self.submitter.submit(model_name, request, submitted_by=_SUBMITTED_BY)
        while True:
            await self.runner.run(accepted.id)  # once more where the machinery lost it
            experiment = await get_experiment(self.database, accepted.id)
            if experiment.status.is_final:
                break
        log = await log_lines(self.database, accepted.id)
        return TrialRun(experiment, log, time.perf_counter() - begin)


@asynccontextmanager
async def open_trial(
    settings: Settings, packages_directory: Path, *, allow_local: bool
) -> AsyncIterator[Trial]:
    """Start everything that a run needs; at the end of the block it has ended.

    Parameters
    ----------
    settings : Settings
        Limits, and ``home``: an empty directory, which the caller removes.
    packages_directory : Path
        Where environments and the package cache are; they stay there for the next check.
    allow_local : bool
        Whether packages may be local.
    """
    postgres = EmbeddedPostgres(settings.home / "pg")
    try:
        await see_through(asyncio.to_thread(postgres.start))
        database = Database(postgres.url, max_connections=4)
        await database.open()
        try:
            await migrate(database)
            async with _services(settings, database, packages_directory, allow_local) as trial:
                yield trial
        finally:
            await see_through(database.close())
    finally:
        await see_through(asyncio.to_thread(postgres.stop))


@asynccontextmanager
async def _services(
    settings: Settings, database: Database, packages_directory: Path, allow_local: bool
) -> AsyncIterator[Trial]:
    queue = await open_queue(database)
    store = open_object_store(None, settings.objects_directory)
    environments = open_environments(settings, packages_directory)
    policy = replace(package_policy(settings), allow_local=allow_local)
    preparer = Preparer(database, environments, store, allow_local=allow_local, policy=policy)
    launcher = Launcher(1, inspect_walls(settings.sandbox))
    headers = HeaderReader(settings.runs_directory)
    parts = RunnerParts(
        database=database,
        queue=queue,
        store=store,
        preparer=preparer,
        stager=Stager(store, InputCache(settings.input_cache_directory), InputRules.of(settings)),
        launcher=launcher,
        headers=headers,
        settings=settings,
        worker=uuid4(),
    )
    try:
        submitter = Submitter(database, queue, settings)
        yield Trial(database, environments, preparer, submitter, Runner(parts))
    finally:
        preparer.interrupt()
        await see_through(launcher.close())
        await see_through(headers.close())
