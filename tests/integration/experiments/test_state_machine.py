"""Any order of claims, reports, endings and losses keeps to the machine that is drawn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.execution.events import LogLine
from dissmodel_platform.execution.outputs import Artifact
from dissmodel_platform.experiments.queries import get_experiment, list_artifacts, log_lines
from dissmodel_platform.experiments.record import Experiment, Source, Submission
from dissmodel_platform.experiments.transitions import (
    MOST_LOSSES,
    cancel,
    claim,
    complete,
    fail,
    hand_back,
    insert,
    report,
)
from dissmodel_platform.types import ExperimentId, Priority, Sha256

SUBMISSION = Submission(
    model_name="m",
    model_commit="c",
    spec_source="",
    resolved_spec={},
    source=Source(type="local", uri=""),
    input_format="auto",
    parameters={},
    column_map={},
    band_map={},
    inputs=[],
    random_seed=0,
)


@dataclass
class Expected:
    """What one experiment should look like."""

    status: str = "pending"
    attempt: int = 0
    losses: int = 0
    worker: UUID | None = None
    log: list[str] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    """Drives the transitions and a model of them side by side."""

    experiments = Bundle("experiments")
    attempts = Bundle("attempts")

    def __init__(self, database: Database, runner: asyncio.Runner) -> None:
        super().__init__()
        self.database = database
        self.do = runner.run
        self.expected: dict[str, Expected] = {}

    def owns(self, attempt: Experiment) -> bool:
        now = self.expected[attempt.id]
        return now.status == "running" and now.attempt == attempt.attempt

    @initialize(target=experiments)
    def first(self) -> str:
        return self.submit()

    @rule(target=experiments)
    def submit(self) -> str:
        async def run() -> Experiment:
            async with self.database.transaction() as connection:
                return await insert(
                    connection,
                    ExperimentId(uuid4().hex),
                    SUBMISSION,
                    submitted_by="a test",
                    priority=Priority.NORMAL,
                )

        experiment = self.do(run())
        self.expected[experiment.id] = Expected()
        return experiment.id

    @rule(target=attempts, experiment=experiments)
    def claim(self, experiment: str) -> Any:
        worker = uuid4()
        attempt = self.do(claim(self.database, experiment, worker))
        now = self.expected[experiment]
        assert (attempt is not None) == (now.status == "pending")
        if attempt is None:
            return self.do(get_experiment(self.database, experiment))  # a stranger's view of it
        now.status, now.attempt, now.worker = "running", now.attempt + 1, worker
        assert attempt.attempt == now.attempt
        return attempt

    @rule(attempt=attempts, text=st.text(max_size=5))
    def report(self, attempt: Experiment, text: str) -> None:
        owned = self.do(report(self.database, attempt, [LogLine("stdout", f"<{text!r}>")], None))
        assert owned is self.owns(attempt)
        if owned:
            self.expected[attempt.id].log.append(f"<{text!r}>")

    @rule(attempt=attempts)
    def complete(self, attempt: Experiment) -> None:
        uri = f"s3://dissmodel-outputs/experiments/{attempt.id}/r"
        artifact = Artifact("r", uri, Sha256("0" * 64), 1, "text/plain")

        async def run() -> bool:
            async with self.database.transaction() as connection:
                return await complete(
                    connection,
                    attempt,
                    {"by": attempt.attempt},
                    [artifact],
                    [LogLine("stdout", "end")],
                )

        self._ended(attempt, self.do(run()), "completed")

    @rule(attempt=attempts)
    def fail(self, attempt: Experiment) -> None:
        lines = [LogLine("platform", "end")]
        done = self.do(fail(self.database, attempt, {"by": attempt.attempt}, lines))
        self._ended(attempt, done, "failed")

    def _ended(self, attempt: Experiment, done: bool, status: str) -> None:
        assert done is self.owns(attempt)
        if done:
            now = self.expected[attempt.id]
            now.status, now.outcome = status, {"by": attempt.attempt}
            now.log.append("end")

    @rule(attempt=consumes(attempts), lost=st.booleans())
    def hand_back(self, attempt: Experiment, lost: bool) -> None:
        async def run() -> str | None:
            async with self.database.transaction() as connection:
                return await hand_back(connection, attempt, lost=lost)

        now = self.expected[attempt.id]
        status = self.do(run())
        assert (status is not None) is self.owns(attempt)
        if status is not None:
            now.losses += lost
            now.status = "failed" if now.losses >= MOST_LOSSES else "pending"
            now.worker = None
            assert status == now.status

    @rule(experiment=experiments)
    def cancel(self, experiment: str) -> None:
        async def run() -> Experiment | None:
            async with self.database.transaction() as connection:
                return await cancel(connection, experiment)

        now = self.expected[experiment]
        cancelled = self.do(run())
        assert (cancelled is not None) == (now.status in ("pending", "running"))
        if cancelled is not None:
            now.status = "cancelled"

    @invariant()
    def every_experiment_is_as_expected(self) -> None:
        for experiment_id, expected in self.expected.items():
            found = self.do(get_experiment(self.database, experiment_id))
            assert (found.status, found.attempt) == (expected.status, expected.attempt)
            assert found.worker == (str(expected.worker) if expected.worker else None)
            assert found.outcome == expected.outcome
            assert (found.finished_at is not None) == found.status.is_final
            assert self.do(log_lines(self.database, experiment_id)) == expected.log
            published = self.do(list_artifacts(self.database, experiment_id))
            assert len(published) == (1 if expected.status == "completed" else 0)


def test_any_order_of_transitions_keeps_to_the_state_machine(database_url: str) -> None:
    with asyncio.Runner() as runner:
        database = Database(database_url)
        runner.run(database.open())
        runner.run(migrate(database))
        run_state_machine_as_test(
            lambda: Machine(database, runner),
            settings=settings(max_examples=30, stateful_step_count=25, deadline=None),
        )
        runner.run(database.close())
