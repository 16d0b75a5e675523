"""Run an experiment: claim, prepare, stage, launch, follow, collect, record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments.scratch import remove_tree
from dissmodel_platform.errors import (
    BuildInterrupted,
    DatabaseError,
    EnvironmentBuildError,
    ModelFailed,
    PlatformError,
    RunLost,
    StorageError,
)
from dissmodel_platform.execution.events import LogLine
from dissmodel_platform.execution.headers.reader import HeaderReader
from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.execution.limits import RunLimits, Watch
from dissmodel_platform.execution.mentions import replace_mentions
from dissmodel_platform.execution.output_tree import OutputLimits
from dissmodel_platform.execution.outputs import Outputs, collect_outputs, verified_artifacts
from dissmodel_platform.execution.references import SOURCE_FIELD, InputReference, StagedInput
from dissmodel_platform.execution.results import RunRecord, read_result
from dissmodel_platform.execution.staging import Stager
from dissmodel_platform.experiments.queries import get_experiment
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.recovery import attempts_of, give_up_attempt
from dissmodel_platform.experiments.transitions import claim, complete, fail
from dissmodel_platform.registry.resources import read_resources
from dissmodel_platform.registry.spec import ModelSpec, parse_spec
from dissmodel_platform.services.compare import Comparer
from dissmodel_platform.services.journal import Journal, LogBounds
from dissmodel_platform.services.prepare import Prepared, Preparer
from dissmodel_platform.services.tally import PHASE_SECONDS, Tally
from dissmodel_platform.settings import Settings
from dissmodel_platform.storable import printable_text, storable_text
from dissmodel_platform.storage.objects import ObjectStore

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_MOST_WARNINGS = 50
"""Sentences on a run's outputs that its record keeps; the log has all."""

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 15.0
_CANCELLED_PATIENCE_SECONDS = 20.0
_LONGEST_LINE = 65_536
_LONGEST_VERSION = 100


@dataclass(frozen=True)
class RunnerParts:
    """What a worker's runner needs, each part owned by the worker."""

    database: Database
    queue: App
    store: ObjectStore
    preparer: Preparer
    stager: Stager
    launcher: Launcher
    headers: HeaderReader
    settings: Settings
    worker: UUID
    tally: Tally = field(default_factory=Tally)


RETRY_SECONDS = 2.0
"""Pause before a lost run is handed back: what broke it may pass."""


class Runner:
    """Runs the experiments of one worker."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._attempts: dict[tuple[str, int], tuple[asyncio.Task[Any], Journal]] = {}

    async def run(self, experiment_id: str) -> None:
        """Run one experiment to its end, unless somebody else has it or it was cancelled.

        After this, the experiment is in a final state, or pending again with a job that will wake
        a worker. A cancelled call (the worker stops, or the user cancelled) stops the model first.
        """
        experiment = await claim(self._parts.database, experiment_id, self._parts.worker)
        if experiment is None:
            return
        attempt, task = (experiment.id, experiment.attempt), asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        journal = Journal(self._parts.database, experiment, LogBounds.of(self._parts.settings))
        journal.open()
        self._attempts[attempt] = task, journal
        try:
            await self._run_to_end(experiment, journal)
        except asyncio.CancelledError:
            await asyncio.shield(self._leave(experiment, journal))
            raise
        finally:
            del self._attempts[attempt]

    async def drop_disowned(self) -> None:
        """Stop what was cancelled or given to another worker, whatever it is doing.

        Raises
        ------
        DatabaseError
            PostgreSQL broke off.
        """
        before = dict(self._attempts)  # claimed before the rows are read
        owned = await attempts_of(self._parts.database, self._parts.worker)
        for attempt in before.keys() - owned:
            task, journal = before[attempt]
            if not journal.disowned.is_set():  # else it is being stopped already
                task.cancel()

    async def _run_to_end(self, experiment: Experiment, journal: Journal) -> None:
        """Run an attempt and write down how it ended."""
        outcome: dict[str, Any] = {}
        try:
            await self._run(experiment, journal, outcome)
        except BuildInterrupted as error:
            await self._hand_back(experiment, journal, str(error).rstrip("."), lost=False)
        except (RunLost, StorageError, DatabaseError) as error:
            await self._lose(experiment, journal, str(error).rstrip("."))
        except OSError as error:
            await self._lose(experiment, journal, f"the disk of its worker refused ({error})")
        except PlatformError as error:
            await self._fail(experiment, journal, outcome, error)
        except Exception as error:
            log.exception("experiment %s", experiment.id)
            problem = PlatformError(
                f"The platform itself failed ({type(error).__name__}: {error}); the operator finds "
                f"the traceback in the worker's log."
            )
            await self._fail(experiment, journal, outcome, problem)
        finally:
            await journal.close()
            for phase, seconds in journal.phase_seconds().items():
                self._parts.tally.observe(PHASE_SECONDS, phase, seconds)

    async def _run(self, experiment: Experiment, journal: Journal, outcome: dict[str, Any]) -> None:
        parts = self._parts
        spec = _spec_of(experiment)
        journal.enter("building")
        prepared = await parts.preparer.prepare(spec, experiment.submission.lock_sha256)
        outcome |= prepared.provenance()
        if prepared.request.tree is not None and prepared.request.editable:
            outcome["source_tree_sha256"] = await asyncio.to_thread(prepared.request.tree.digest)
        with prepared.environment.use():
            await self._run_prepared(experiment, spec, prepared, journal, outcome)

    async def _run_prepared(
        self,
        experiment: Experiment,
        spec: ModelSpec,
        prepared: Prepared,
        journal: Journal,
        outcome: dict[str, Any],
    ) -> None:
        parts = self._parts
        references = [InputReference.from_json(entry) for entry in experiment.submission.inputs]
        journal.enter("staging")
        async with (
            self._scratch(experiment, prepared.environment.key) as directory,
            parts.stager.staging(references, directory) as staged,
        ):
            outcome["inputs"] = [entry.as_json() for entry in staged]
            outcome["source_checksum"] = next(
                (entry.sha256 for entry in staged if entry.field == SOURCE_FIELD), ""
            )
            _write_request(experiment, spec, staged, directory)
            try:
                record = await self._execute(
                    experiment, spec, prepared, directory, journal, outcome
                )
            except PlatformError:  # a damaged environment may be why
                parts.preparer.forget(prepared.environment)
                raise
            journal.enter("collecting")
            outputs = await collect_outputs(
                directory / "outputs",
                experiment.id,
                experiment.submission.run_as or experiment.id,
                record.output_path,
                parts.store,
                OutputLimits(parts.settings.output_max_files, parts.settings.output_max_bytes),
                parts.headers,
            )
        await self._publish(experiment, record, outputs, prepared, journal, outcome)

    @asynccontextmanager
    async def _scratch(self, experiment: Experiment, environment: str) -> AsyncIterator[Path]:
        """Make the run's own directory and remove it at the end, whatever happened.

        It lies in a room of its environment's runs: that is what a server of runs gets to see.
        """
        room = self._parts.settings.runs_directory.resolve() / environment
        directory = room / scratch_name(experiment.id, experiment.attempt)
        for name in ("inputs", "outputs", "result", "home", "tmp"):
            (directory / name).mkdir(parents=True)
        try:
            yield directory
        finally:
            await asyncio.to_thread(remove_tree, directory)

    async def _execute(
        self,
        experiment: Experiment,
        spec: ModelSpec,
        prepared: Prepared,
        directory: Path,
        journal: Journal,
        outcome: dict[str, Any],
    ) -> RunRecord:
        """Run the model's process and return the record it made."""
        settings = self._parts.settings
        journal.enter("starting")
        limits = RunLimits.of(settings, read_resources(spec.resources))
        excess = ""
        try:
            async with asyncio.timeout(limits.seconds) as limit:
                run = await self._parts.launcher.start(
                    prepared.environment,
                    spec.executor_module or "",
                    directory,
                    limits.of_each_process(),
                    cores=limits.cores,
                    fork=not prepared.request.editable,
                )
                outcome["start_mode"] = run.mode
                try:
                    excess = await _first_of(
                        journal.follow(run), Watch(run, directory, limits).excess()
                    )
                finally:
                    grace = 0.0 if excess else settings.cancel_grace_seconds
                    await asyncio.shield(run.stop(grace))
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ModelFailed(
                f"The run was ended after its time limit of {limits.seconds:g} s; simulate less, "
                f"or ask the operator for a longer limit."
            ) from error
        exit_ = await run.exit
        if exit_.max_rss_bytes is not None:
            outcome["usage"] = {
                "max_rss_bytes": exit_.max_rss_bytes,
                "cpu_seconds": exit_.cpu_seconds,
            }
        if excess:
            raise ModelFailed(
                f"The run was ended: {excess}; simulate less, or ask the operator for a higher "
                f"limit."
            )
        return await asyncio.to_thread(
            read_result, directory, exit_, was_stopped=run.stop_signal is not None
        )

    async def _publish(
        self,
        experiment: Experiment,
        record: RunRecord,
        outputs: Outputs,
        prepared: Prepared,
        journal: Journal,
        outcome: dict[str, Any],
    ) -> None:
        """Write the result down in one transaction, if the attempt still owns the experiment."""
        artifacts, faults = verified_artifacts(record.artifacts, outputs)
        named = (*outputs.refused.items(), *outputs.undescribed.items())
        of_files = (f"{printable_text(name)} {why}" for name, why in named)
        warnings = [storable_text(sentence) for sentence in (*of_files, *faults)]
        for sentence in warnings:
            journal.add(LogLine("platform", sentence))
        for line in record.logs:
            journal.add(LogLine("record", str(line)[:_LONGEST_LINE]))
        outcome |= {
            # the lock knows it, and the model cannot change it
            "code_version": outcome["code_version"] or record.code_version[:_LONGEST_VERSION],
            "period": record.period,
            "metrics": record.metrics,
            "artifacts": artifacts,
            "warnings": warnings[:_MOST_WARNINGS],
            "output_path": outputs.main.uri if outputs.main else None,
            "outputs": [artifact.as_json() for artifact in outputs.artifacts],
        }
        if experiment.reproduces is not None:
            original = await self._keep_trying(
                lambda: get_experiment(self._parts.database, experiment.reproduces or "")
            )
            comparer = Comparer(self._parts.store, self._parts.preparer.environments)
            outcome["reproduction"] = await comparer.compare(
                original, outputs.artifacts, prepared.environment
            )
        await journal.close()
        entries, progress = journal.take()

        async def publish() -> None:
            async with self._parts.database.transaction() as connection:
                await complete(
                    connection, experiment, outcome, outputs.artifacts, entries, progress
                )

        await self._see_through(publish)

    async def _see_through(self, write: Callable[[], Awaitable[object]]) -> None:
        """Write the end of an attempt, also when this is cancelled meanwhile, for a while.

        A worker that is stopped does not throw away what a run has cost.
        """
        writing = asyncio.ensure_future(self._keep_trying(write))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing}, timeout=_CANCELLED_PATIENCE_SECONDS)
            raise
        finally:
            if not writing.done():
                writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _keep_trying(self, write: Callable[[], Awaitable[Result]]) -> Result:
        """Do what ends an attempt, again while the database is away, for a bounded time.

        What the run cost is not thrown away for a database that restarts. Doing it twice is safe:
        an attempt that has ended, or was given to another worker, changes nothing.

        Raises
        ------
        DatabaseError
            The database stayed away.
        """
        deadline = time.monotonic() + self._parts.settings.publish_patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await write()
            except DatabaseError as error:
                if time.monotonic() + pause >= deadline:
                    raise
                log.warning("the end of a run cannot be written; again in %g s: %s", pause, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _fail(
        self,
        experiment: Experiment,
        journal: Journal,
        outcome: dict[str, Any],
        error: PlatformError,
    ) -> None:
        """End the experiment; its log ends with the reason, the tool's own words above."""
        above = ""
        if isinstance(error, EnvironmentBuildError):
            above = error.output_tail
        elif isinstance(error, ModelFailed):
            above = error.traceback
        await journal.close()
        entries, progress = journal.take()
        entries += [LogLine("platform", line) for line in above.splitlines()]
        entries.append(LogLine("platform", " ".join(str(error).split())))
        await self._see_through(
            lambda: fail(self._parts.database, experiment, outcome, entries, progress)
        )

    async def _lose(self, experiment: Experiment, journal: Journal, reason: str) -> None:
        """Hand an attempt back that the machinery has lost, after a pause."""
        if not journal.disowned.is_set():
            await asyncio.sleep(RETRY_SECONDS)
            await self._hand_back(experiment, journal, reason, lost=True)

    async def _leave(self, experiment: Experiment, journal: Journal) -> None:
        """Hand an attempt back at once; where that fails, a reconciler does it later."""
        await journal.close(write=True)
        with contextlib.suppress(DatabaseError):
            await self._give_up(experiment, "its worker is being stopped", lost=False)

    async def _hand_back(
        self, experiment: Experiment, journal: Journal, reason: str, *, lost: bool
    ) -> None:
        await journal.close(write=True)
        with contextlib.suppress(DatabaseError):  # it stays away: a reconciler does it later
            await self._keep_trying(lambda: self._give_up(experiment, reason, lost=lost))

    async def _give_up(self, experiment: Experiment, reason: str, *, lost: bool) -> None:
        async with self._parts.database.transaction() as connection:
            await give_up_attempt(connection, self._parts.queue, experiment, reason, lost=lost)


async def _first_of(following: Coroutine[Any, Any, None], excess: Coroutine[Any, Any, str]) -> str:
    """Wait for the end of a run, or for its excess, which is returned; neither goes on after it."""
    follower, watcher = asyncio.create_task(following), asyncio.create_task(excess)
    try:
        await asyncio.wait({follower, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if follower.done():
            follower.result()
            return ""
        return watcher.result()
    finally:
        for task in (follower, watcher):
            task.cancel()
        await asyncio.gather(follower, watcher, return_exceptions=True)


def scratch_name(experiment_id: str, attempt: int) -> str:
    """Return the name of an attempt's own directory."""
    return f"{experiment_id}-{attempt}"


def _spec_of(experiment: Experiment) -> ModelSpec:
    submission = experiment.submission
    parsed = parse_spec(f"models/{submission.model_name}.toml", submission.spec_source)
    assert parsed.spec is not None, "only specs that parse are submitted"
    return parsed.spec


def _write_request(
    experiment: Experiment, spec: ModelSpec, staged: list[StagedInput], directory: Path
) -> None:
    """Write what the harness reads: the record as the model shall see it, with local paths."""
    submission = experiment.submission
    local = {entry.uri: str(entry.path) for entry in staged}
    source = next((e for e in staged if e.field == SOURCE_FIELD), None)
    record = experiment.library_record()
    record |= {
        "experiment_id": submission.run_as or experiment.id,
        "created_at": (submission.run_created_at or experiment.created_at).isoformat(),
        "parameters": replace_mentions(submission.parameters, local.get),
        "source": {
            **record["source"],
            "type": "local" if source else submission.source.type,
            "uri": replace_mentions(submission.source.uri, local.get),
            "checksum": source.sha256 if source else "",
        },
        "status": "running",
    }
    request = {
        "class_name": spec.class_name,
        "random_seed": submission.random_seed,
        "record": record,
        "staged": local,
    }
    (directory / "request.json").write_text(json.dumps(request))
