"""The worker role: takes jobs from the queue, builds environments, runs experiments."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID, uuid4

from procrastinate import App
from procrastinate.exceptions import ConnectorException

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError, PlatformError
from dissmodel_platform.execution.input_cache import InputCache
from dissmodel_platform.execution.input_rules import InputRules
from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.execution.staging import Stager
from dissmodel_platform.experiments.queue import BUILDS, RUN_TASK, RUNS
from dissmodel_platform.experiments.recovery import (
    forget_worker,
    reconcile,
    register_worker,
    send_heartbeat,
)
from dissmodel_platform.services.build import Builder
from dissmodel_platform.services.package_policy import package_policy
from dissmodel_platform.services.prepare import Preparer, open_environments
from dissmodel_platform.services.run import Runner, RunnerParts, remove_stale_scratch
from dissmodel_platform.services.tidy import Tidier
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.objects import ObjectStore

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
"""Between two heartbeats; less where the operator gives workers up sooner."""

_BEATS_PER_TIMEOUT = 4
_POLL_SECONDS = 5.0
_RESUME_SECONDS = 1.0


class Worker:
    """One worker process.

    Parameters
    ----------
    database, queue, store : Database, App, ObjectStore
        Opened by the caller.
    settings : Settings
        Slots, limits, directories.
    """

    def __init__(
        self, database: Database, queue: App, store: ObjectStore, settings: Settings
    ) -> None:
        self.id: UUID = uuid4()
        self._database = database
        self._queue = queue
        self._settings = settings
        self._launcher = Launcher(settings.fork_servers)
        # Counted, since two jobs may point at one experiment for a moment.
        self._active: Counter[str] = Counter()
        self._heartbeat_seconds = min(
            HEARTBEAT_SECONDS, settings.worker_timeout_seconds / _BEATS_PER_TIMEOUT
        )
        environments = open_environments(settings, settings.packages_directory)
        self._layout = environments.layout
        self._tidier = Tidier(environments, settings.environments_max_bytes)
        inputs = InputCache(settings.input_cache_directory)
        self._input_tidier = Tidier(inputs, settings.inputs_max_bytes, what="inputs")
        self._preparer = Preparer(
            database,
            environments,
            store,
            allow_local=settings.allow_local_packages,
            when_built=self._tidier.want,
            policy=package_policy(settings),
        )
        self._runner = Runner(
            RunnerParts(
                database=database,
                queue=queue,
                store=store,
                preparer=self._preparer,
                stager=Stager(store, inputs, InputRules.of(settings), self._input_tidier.want),
                launcher=self._launcher,
                settings=settings,
                worker=self.id,
            )
        )
        queue.task(name=RUN_TASK, queue=RUNS)(self._run_experiment)
        Builder(database, queue, self._preparer).take_jobs()

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then finish or hand back what is running."""
        await register_worker(self._database, self.id)
        await remove_stale_scratch(self._database, self._settings.runs_directory)
        log.info("worker %s takes up to %d runs at once", self.id, self._settings.worker_slots)
        for sentence in await asyncio.to_thread(self._layout.faults):
            log.warning("%s", sentence)
        tidiers = (self._tidier, self._input_tidier)
        tidying = [asyncio.create_task(tidier.run()) for tidier in tidiers]
        try:
            async with (
                self._consuming(RUNS, self._settings.worker_slots) as runs,
                self._consuming(BUILDS, 1) as builds,
            ):
                await self._keep_alive_until(stop, runs, builds)
                self._preparer.interrupt()
        finally:
            for task in tidying:
                task.cancel()
            self._preparer.interrupt()
            await asyncio.gather(*tidying, return_exceptions=True)
            await self._launcher.close()
            with suppress(DatabaseError):
                await forget_worker(self._database, self.id)

    async def _keep_alive_until(self, stop: asyncio.Event, *consumers: asyncio.Task[None]) -> None:
        """Send heartbeats until the worker is stopped or given up, or can work no more."""
        leaving = asyncio.Event()
        keeper = asyncio.create_task(self._keep_alive(leaving))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({keeper, stopping, *consumers}, return_when=asyncio.FIRST_COMPLETED)
            for worker in (keeper, *consumers):
                if worker.done():
                    worker.result()
        finally:
            # a broken-off query can swallow a cancellation, so the loop looks at the event as well
            leaving.set()
            keeper.cancel()
            stopping.cancel()
            await asyncio.gather(keeper, stopping, return_exceptions=True)

    @asynccontextmanager
    async def _consuming(self, queue: str, concurrency: int) -> AsyncIterator[asyncio.Task[None]]:
        """Take jobs of one queue while the block runs; at its end, running jobs are aborted."""
        leaving = asyncio.Event()
        consumer = asyncio.create_task(self._consume(queue, concurrency, leaving))
        try:
            yield consumer
        finally:
            leaving.set()
            consumer.cancel()
            with suppress(asyncio.CancelledError):
                await consumer

    async def _consume(self, queue: str, concurrency: int, leaving: asyncio.Event) -> None:
        """Take jobs of one queue for ever; the queue's own loop ends when the database breaks off.

        It has aborted its jobs by then, so their experiments are handed back.
        """
        while not leaving.is_set():
            with suppress(ConnectorException):
                await self._queue.run_worker_async(
                    queues=[queue],
                    name=f"{queue}-{self.id}",
                    concurrency=concurrency,
                    fetch_job_polling_interval=_POLL_SECONDS,
                    abort_job_polling_interval=_POLL_SECONDS,
                    shutdown_graceful_timeout=0,
                    install_signal_handlers=False,
                    delete_jobs="always",
                    update_heartbeat_interval=self._heartbeat_seconds,
                    stalled_worker_timeout=self._settings.worker_timeout_seconds,
                )
            if not leaving.is_set():
                log.warning("the queue %s broke off and is taken up again", queue)
                await asyncio.sleep(_RESUME_SECONDS)

    async def _run_experiment(self, experiment_id: str) -> None:
        self._active[experiment_id] += 1
        try:
            await self._runner.run(experiment_id)
        finally:
            self._active[experiment_id] -= 1
            if not self._active[experiment_id]:
                del self._active[experiment_id]

    async def _keep_alive(self, leaving: asyncio.Event) -> None:
        """Send heartbeats and mend what others left; raises when this worker was given up."""
        while not leaving.is_set():
            try:
                if not await send_heartbeat(self._database, self.id):
                    raise PlatformError(
                        "This worker was taken for dead (it did not answer for too long); it ends "
                        "so that its runs do not run twice."
                    )
                await reconcile(
                    self._database,
                    self._queue,
                    worker=self.id,
                    active=self._active,
                    worker_timeout_seconds=self._settings.worker_timeout_seconds,
                )
            except DatabaseError as error:
                log.warning("heartbeat: %s", error)
            await asyncio.sleep(self._heartbeat_seconds)
