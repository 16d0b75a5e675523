"""Run an experiment: claim, prepare, stage, launch, follow, collect, record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from procrastinate import App

from dissmodel_platform.database.pool import Database
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
from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.execution.mentions import replace_mentions
from dissmodel_platform.execution.outputs import Outputs, collect_outputs, verified_artifacts
from dissmodel_platform.execution.references import SOURCE_FIELD, InputReference, StagedInput
from dissmodel_platform.execution.results import RunRecord, read_result
from dissmodel_platform.execution.staging import Stager
from dissmodel_platform.experiments.queries import get_experiment, running_attempts
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.recovery import give_up_attempt
from dissmodel_platform.experiments.transitions import claim, complete, fail
from dissmodel_platform.registry.spec import ModelSpec, parse_spec
from dissmodel_platform.services.compare import compare_outputs
from dissmodel_platform.services.journal import Journal
from dissmodel_platform.services.prepare import Prepared, Preparer
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.objects import ObjectStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunnerParts:
    """What a worker's runner needs, each part owned by the worker."""

    database: Database
    queue: App
    store: ObjectStore
    preparer: Preparer
    stager: Stager
    launcher: Launcher
    settings: Settings
    worker: UUID


class Runner:
    """Runs the experiments of one worker."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts

    async def run(self, experiment_id: str) -> None:
        """Run one experiment to its end, unless somebody else has it or it was cancelled.

        After this, the experiment is in a final state, or pending again with a job that will wake
        a worker. A cancelled call (the worker stops, or the user cancelled) stops the model first.
        """
        experiment = await claim(self._parts.database, experiment_id, self._parts.worker)
        if experiment is None:
            return
        outcome: dict[str, Any] = {}
        journal = Journal(self._parts.database, experiment)
        try:
            await self._run(experiment, journal, outcome)
        except asyncio.CancelledError:
            await asyncio.shield(
                self._hand_back(experiment, "its worker is being stopped", lost=False)
            )
            raise
        except BuildInterrupted as error:
            await self._hand_back(experiment, str(error).rstrip("."), lost=False)
        except (RunLost, StorageError, DatabaseError) as error:
            await self._hand_back(experiment, str(error).rstrip("."), lost=True)
        except OSError as error:
            reason = f"the disk of its worker refused ({error})"
            await self._hand_back(experiment, reason, lost=True)
        except PlatformError as error:
            await self._fail(experiment, journal, outcome, error)
        except Exception as error:
            log.exception("experiment %s", experiment.id)
            problem = PlatformError(
                f"The platform itself failed ({type(error).__name__}: {error}); the operator finds "
                f"the traceback in the worker's log."
            )
            await self._fail(experiment, journal, outcome, problem)

    async def _run(self, experiment: Experiment, journal: Journal, outcome: dict[str, Any]) -> None:
        parts = self._parts
        spec = _spec_of(experiment)
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
        async with (
            self._scratch(experiment) as directory,
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
            outputs = await collect_outputs(
                directory / "outputs",
                experiment.id,
                experiment.submission.run_as or experiment.id,
                record.output_path,
                parts.store,
            )
        await self._publish(experiment, record, outputs, journal, outcome)

    @asynccontextmanager
    async def _scratch(self, experiment: Experiment) -> AsyncIterator[Path]:
        """Make the run's own directory and remove it at the end, whatever happened."""
        root = self._parts.settings.runs_directory
        directory = root.resolve() / _scratch_name(experiment.id, experiment.attempt)
        (directory / "outputs").mkdir(parents=True)
        try:
            yield directory
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

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
        limits = {"RLIMIT_CORE": 0}
        if settings.run_memory_bytes:
            limits["RLIMIT_AS"] = settings.run_memory_bytes
        try:
            async with asyncio.timeout(settings.run_timeout_seconds) as limit:
                run = await self._parts.launcher.start(
                    prepared.environment,
                    spec.executor_module or "",
                    directory,
                    limits,
                    fork=not prepared.request.editable,
                )
                outcome["start_mode"] = run.mode
                try:
                    await journal.follow(run)
                finally:
                    await asyncio.shield(run.stop(settings.cancel_grace_seconds))
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ModelFailed(
                f"The run was ended after its time limit of {settings.run_timeout_seconds:g} s; "
                f"simulate less, or ask the operator for a longer limit."
            ) from error
        exit_ = await run.exit
        if exit_.max_rss_bytes is not None:
            outcome["usage"] = {
                "max_rss_bytes": exit_.max_rss_bytes,
                "cpu_seconds": exit_.cpu_seconds,
            }
        return await asyncio.to_thread(
            read_result, directory, exit_, was_stopped=run.stop_signal is not None
        )

    async def _publish(
        self,
        experiment: Experiment,
        record: RunRecord,
        outputs: Outputs,
        journal: Journal,
        outcome: dict[str, Any],
    ) -> None:
        """Write the result down in one transaction, if the attempt still owns the experiment."""
        for name in outputs.refused:
            journal.add(LogLine("platform", f"{name} is no regular file and was not collected."))
        for line in record.logs:
            journal.add(LogLine("record", str(line)))
        outcome |= {
            "code_version": record.code_version or outcome["code_version"],
            "period": record.period,
            "metrics": record.metrics,
            "artifacts": verified_artifacts(record.artifacts, outputs),
            "output_path": outputs.main.uri if outputs.main else None,
            "outputs": [vars(artifact) for artifact in outputs.artifacts],
        }
        if experiment.reproduces is not None:
            original = await get_experiment(self._parts.database, experiment.reproduces)
            outcome["reproduction"] = compare_outputs(original, outputs.artifacts)
        async with self._parts.database.transaction() as connection:
            await complete(connection, experiment, outcome, outputs.artifacts, journal.take_lines())

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
        lines = journal.take_lines()
        lines += [LogLine("platform", line) for line in above.splitlines()]
        lines.append(LogLine("platform", " ".join(str(error).split())))
        await fail(self._parts.database, experiment, outcome, lines)

    async def _hand_back(self, experiment: Experiment, reason: str, *, lost: bool) -> None:
        with contextlib.suppress(DatabaseError):  # the reconciler does it once the database is back
            async with self._parts.database.transaction() as connection:
                await give_up_attempt(connection, self._parts.queue, experiment, reason, lost=lost)


async def remove_stale_scratch(database: Database, directory: Path) -> None:
    """Remove what killed workers left of their runs; those in progress, of any worker, stay."""
    left = await asyncio.to_thread(lambda: [path for path in directory.glob("*") if path.is_dir()])
    running = {_scratch_name(*attempt) for attempt in await running_attempts(database)}
    for path in left:
        if path.name not in running:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


def _scratch_name(experiment_id: str, attempt: int) -> str:
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
