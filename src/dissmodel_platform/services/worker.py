"""The worker role: takes jobs from the queue, builds environments, runs experiments."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID, uuid4

from procrastinate import App
from procrastinate.exceptions import ConnectorException

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError, PlatformError
from dissmodel_platform.execution.headers.reader import HeaderReader
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
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.build import Builder
from dissmodel_platform.services.in_progress import RunsInProgress
from dissmodel_platform.services.package_policy import package_policy
from dissmodel_platform.services.prepare import Preparer, open_environments
from dissmodel_platform.services.run import Runner, RunnerParts
from dissmodel_platform.services.tally import RUN_STARTS, Tally
from dissmodel_platform.services.tidy import Tidier, keep_scratch_tidy
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.objects import ObjectStore

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
"""Between two heartbeats; less where the operator gives workers up sooner."""

POLL_SECONDS = 5.0
"""Between two looks for jobs that no notification told of."""

_BEATS_PER_TIMEOUT = 4
_BEATS_OF_GRACE = 2
_RESUME_SECONDS = 1.0
_HAND_BACK_SECONDS = 5.0


def heartbeat_seconds(settings: Settings) -> float:
    """Return the time between two heartbeats of a worker, in seconds."""
    return min(HEARTBEAT_SECONDS, settings.worker_timeout_seconds / _BEATS_PER_TIMEOUT)


def longest_absence_seconds(settings: Settings) -> float:
    """Return the time in which the runs of a dead worker are taken by a free one, in seconds.

    Its last heartbeat grows old, another worker's next heartbeat finds that, and the job it inserts
    is found, at the latest, by the look that needs no notification.
    """
    return settings.worker_timeout_seconds + heartbeat_seconds(settings) + POLL_SECONDS


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
        self._launcher = Launcher(settings.fork_servers, inspect_walls(settings.sandbox))
        self._headers = HeaderReader(settings.runs_directory)
        self._tally = Tally()
        self._heartbeat_seconds = heartbeat_seconds(settings)
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
            tally=self._tally,
        )
        self._runner = Runner(
            RunnerParts(
                database=database,
                queue=queue,
                store=store,
                preparer=self._preparer,
                stager=Stager(store, inputs, InputRules.of(settings), self._input_tidier.want),
                launcher=self._launcher,
                headers=self._headers,
                settings=settings,
                worker=self.id,
                tally=self._tally,
            )
        )
        self._runs = RunsInProgress(
            self._runner.run,
            settings.worker_slots,
            stop_seconds=settings.cancel_grace_seconds + _HAND_BACK_SECONDS,
        )
        queue.task(name=RUN_TASK, queue=RUNS)(self._start_run)
        Builder(database, queue, self._preparer).take_jobs()

    async def serve(self, stop: asyncio.Event, hurry: asyncio.Event | None = None) -> None:
        """Work until ``stop`` is set; then let runs finish for a while, and hand back the rest.

        Parameters
        ----------
        stop : asyncio.Event
            Take no new work; the runs in progress have the grace time that the settings say.
        hurry : asyncio.Event, optional
            Do not wait for them (any longer).

        Raises
        ------
        PlatformError
            This worker was given up: its runs are others' by now.
        """
        await register_worker(self._database, self.id, slots=self._settings.worker_slots)
        log.info("worker %s takes up to %d runs at once", self.id, self._settings.worker_slots)
        for sentence in await asyncio.to_thread(self._layout.faults):
            log.warning("%s", sentence)
        tidying = [
            asyncio.create_task(self._tidier.run()),
            asyncio.create_task(self._input_tidier.run()),
            asyncio.create_task(keep_scratch_tidy(self._database, self._settings.runs_directory)),
        ]
        try:
            async with self._keeping_alive() as keeper:
                async with self._consuming(RUNS) as runs, self._consuming(BUILDS) as builds:
                    await _first(stop, keeper, runs, builds)
                    self._preparer.interrupt()
                await self._let_finish(hurry or asyncio.Event(), keeper)
                await self._runs.hand_back()
        finally:
            for task in tidying:
                task.cancel()
            self._preparer.interrupt()
            await self._runs.hand_back()
            await asyncio.gather(*tidying, return_exceptions=True)
            await self._launcher.close()
            await self._headers.close()
            with suppress(DatabaseError):
                await self._write_tally()
                await forget_worker(self._database, self.id)

    async def _write_tally(self) -> None:
        """Add what was counted since the last time to the totals."""
        for result, times in self._launcher.starts.items():
            self._tally.count(RUN_STARTS, result, times)
        self._launcher.starts.clear()
        await self._tally.write(self._database)

    async def _let_finish(self, hurry: asyncio.Event, keeper: asyncio.Task[None]) -> None:
        """Wait for the runs in progress, for as long as the operator allows."""
        seconds = self._settings.stop_grace_seconds
        if not self._runs or not seconds or hurry.is_set():
            return
        log.info("%d runs may finish within %g s", len(self._runs), seconds)
        ended = asyncio.create_task(self._runs.ended())
        try:
            async with asyncio.timeout(seconds):
                await _first(hurry, keeper, ended)
        except TimeoutError:
            log.info("%d runs have not finished and are handed back", len(self._runs))
        finally:
            ended.cancel()

    @asynccontextmanager
    async def _keeping_alive(self) -> AsyncIterator[asyncio.Task[None]]:
        """Send heartbeats while the block runs; the task ends when the worker was given up."""
        leaving = asyncio.Event()
        keeper = asyncio.create_task(self._keep_alive(leaving))
        try:
            yield keeper
        finally:
            # a broken-off query can swallow a cancellation, so the loop looks at the event as well
            leaving.set()
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    @asynccontextmanager
    async def _consuming(self, queue: str) -> AsyncIterator[asyncio.Task[None]]:
        """Take jobs of one queue while the block runs; at its end, running jobs are aborted."""
        leaving = asyncio.Event()
        consumer = asyncio.create_task(self._consume(queue, leaving))
        try:
            yield consumer
        finally:
            leaving.set()
            consumer.cancel()
            with suppress(asyncio.CancelledError):
                await consumer

    async def _consume(self, queue: str, leaving: asyncio.Event) -> None:
        """Take jobs of one queue for ever; the queue's own loop ends when the database breaks off.

        It has aborted its jobs by then. Builds are begun again; runs go on without theirs.
        """
        while not leaving.is_set():
            if queue == RUNS:
                await self._runs.room()
            with suppress(ConnectorException):
                await self._queue.run_worker_async(
                    queues=[queue],
                    name=f"{queue}-{self.id}",
                    concurrency=1,
                    fetch_job_polling_interval=POLL_SECONDS,
                    abort_job_polling_interval=POLL_SECONDS,
                    shutdown_graceful_timeout=0,
                    install_signal_handlers=False,
                    delete_jobs="always",
                    update_heartbeat_interval=self._heartbeat_seconds,
                    stalled_worker_timeout=self._settings.worker_timeout_seconds,
                )
            if not leaving.is_set():
                log.warning("the queue %s broke off and is taken up again", queue)
                await asyncio.sleep(_RESUME_SECONDS)

    async def _start_run(self, experiment_id: str) -> None:
        """Start a run and wait for room: the queue hands out the next job when this one is over."""
        self._runs.start(experiment_id)
        await self._runs.room()

    async def _keep_alive(self, leaving: asyncio.Event) -> None:
        """Send heartbeats and mend what others left; raises when this worker was given up."""
        clock = asyncio.get_running_loop().time
        reached_since = last_beat = -math.inf
        while not leaving.is_set():
            try:
                await self._beat()
                # After a time without the database, ours or everybody's, the others need a moment
                # to say that they are alive; they are not given up for it.
                if clock() - last_beat > _BEATS_OF_GRACE * self._heartbeat_seconds:
                    reached_since = clock()
                last_beat = clock()
                await self._runner.drop_disowned()
                may_judge = last_beat - reached_since >= _BEATS_OF_GRACE * self._heartbeat_seconds
                await reconcile(
                    self._database,
                    self._queue,
                    worker=self.id,
                    active=self._runs,
                    worker_timeout_seconds=(
                        self._settings.worker_timeout_seconds if may_judge else None
                    ),
                )
                await self._write_tally()
            except DatabaseError as error:
                log.warning("heartbeat: %s", error)
            await asyncio.sleep(self._heartbeat_seconds)

    async def _beat(self) -> None:
        if not await send_heartbeat(self._database, self.id):
            raise PlatformError(
                "This worker was taken for dead (it did not answer for too long); it ends "
                "so that its runs do not run twice."
            )


async def _first(event: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Wait until the event is set or a task has ended; raises what the task did."""
    happening = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({happening, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        happening.cancel()
