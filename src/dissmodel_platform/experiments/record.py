"""What is kept of an experiment: dissmodel's own record and the platform's provenance beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow
from pydantic import BaseModel, ConfigDict

from dissmodel_platform.types import ExperimentId, ExperimentStatus, Priority

INLINE_COMMIT = "local-inline"
"""``model_commit`` of an experiment whose spec came with the request."""


class Source(BaseModel):
    """Where the input came from; the names are those of dissmodel's ``DataSource``."""

    model_config = ConfigDict(frozen=True)

    type: str
    uri: str
    collection: str = ""
    version: str = ""
    checksum: str = ""


class Submission(BaseModel):
    """Everything that determines a run; written once, never changed.

    Attributes
    ----------
    spec_source : str
        The TOML text of the model's spec.
    resolved_spec : dict
        The same as JSON.
    parameters : dict
        Extra keys of ``[model]`` < ``[model.parameters]`` < the request's parameters.
    inputs : list of dict
        ``field``, ``uri`` and, where known beforehand, ``sha256`` of each input.
    random_seed : int
        Seeds the global generators of the run.
    lock_sha256 : str or None
        The lock to use; ``None``: the one of the model's version.
    warnings : list of str
        What was accepted but looks like a mistake.
    run_as : str or None
        Experiment id that the model sees; ``None``: its own. A reproduction hands the model the
        very record of the original, so that names made of it are the same.
    run_created_at : datetime or None
        The same for the record's time stamp.
    """

    model_config = ConfigDict(frozen=True)

    model_name: str
    model_commit: str
    spec_source: str
    resolved_spec: dict[str, Any]
    source: Source
    input_format: str
    parameters: dict[str, Any]
    column_map: dict[str, Any]
    band_map: dict[str, Any]
    inputs: list[dict[str, Any]]
    random_seed: int
    lock_sha256: str | None = None
    warnings: list[str] = []
    run_as: str | None = None
    run_created_at: datetime | None = None


@dataclass(frozen=True)
class Experiment:
    """One row of the table: where the experiment stands, what was asked, what came out."""

    id: ExperimentId
    status: ExperimentStatus
    priority: Priority
    submitted_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempt: int
    worker: str | None
    queue_job_id: int | None
    reproduces: ExperimentId | None
    submission: Submission
    outcome: dict[str, Any]
    progress: dict[str, Any] | None

    @classmethod
    def from_row(cls, row: DictRow) -> Experiment:
        """Read a row of the table ``experiments``."""
        return cls(
            id=ExperimentId(row["id"]),
            status=ExperimentStatus(row["status"]),
            priority=Priority(row["priority"]),
            submitted_by=row["submitted_by"],
            created_at=row["created_at"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            attempt=row["attempt"],
            worker=str(row["worker"]) if row["worker"] else None,
            queue_job_id=row["queue_job_id"],
            reproduces=ExperimentId(row["reproduces"]) if row["reproduces"] else None,
            submission=Submission.model_validate(row["submission"]),
            outcome=row["outcome"],
            progress=row["progress"],
        )

    @property
    def input_sha256(self) -> str | None:
        """Content of the input dataset, once it is known."""
        checksum = self.outcome.get("source_checksum") or self.submission.source.checksum
        return checksum or None

    @property
    def expected_end(self) -> datetime | None:
        """When the simulation will be done, while it goes on and that can be told."""
        end = (self.progress or {}).get("expected_end")
        is_running = self.status is ExperimentStatus.RUNNING
        return datetime.fromisoformat(end) if is_running and end else None

    @property
    def warnings(self) -> list[str]:
        """What looks like a mistake in the submission, and in what the run left."""
        return [*self.submission.warnings, *self.outcome.get("warnings", [])]

    def library_record(self) -> dict[str, Any]:
        """Return the fields of dissmodel's ``ExperimentRecord``; ``logs`` are kept apart."""
        submission, outcome = self.submission, self.outcome
        return {
            "experiment_id": self.id,
            "created_at": self.created_at.isoformat(),
            "model_name": submission.model_name,
            "model_commit": submission.model_commit,
            "code_version": outcome.get("code_version", ""),
            "resolved_spec": submission.resolved_spec,
            "source": {**submission.source.model_dump(), "checksum": self.input_sha256 or ""},
            "input_format": submission.input_format,
            "column_map": submission.column_map,
            "band_map": submission.band_map,
            "parameters": submission.parameters,
            "period": outcome.get("period"),
            "output_path": outcome.get("output_path"),
            "artifacts": outcome.get("artifacts", {}),
            "metrics": outcome.get("metrics", {}),
            "status": self.status.value,
            "logs": [],
        }

    def flat_record(self, logs: list[str], phases: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """Return the whole record: the library's fields and the platform's side by side.

        Parameters
        ----------
        logs : list of str
            Its last log lines.
        phases : sequence of dict
            The phases of its attempts, in order.
        """
        outcome = self.outcome
        return {
            **self.library_record(),
            "logs": logs,
            "priority": self.priority.value,
            "attempt": self.attempt,
            "worker": self.worker,
            "submitted_by": self.submitted_by,
            "started_at": _rfc3339(self.started_at),
            "finished_at": _rfc3339(self.finished_at),
            "input_sha256": self.input_sha256,
            "output_sha256": outcome.get("artifacts", {}).get("output"),
            "inputs": outcome.get("inputs", []),
            "outputs": outcome.get("outputs", []),
            "environment_key": outcome.get("environment_key"),
            "lock_sha256": outcome.get("lock_sha256"),
            "package_version": outcome.get("package_version"),
            "package_commit": outcome.get("package_commit"),
            "start_mode": outcome.get("start_mode"),
            "random_seed": self.submission.random_seed,
            "reproducible": outcome.get("reproducible"),
            "reproduces": self.reproduces,
            "reproduction": outcome.get("reproduction"),
            "source_tree_sha256": outcome.get("source_tree_sha256"),
            "warnings": self.warnings,
            "progress": self.progress,
            "expected_end": _rfc3339(self.expected_end),
            "phases": list(phases),
        }


def _rfc3339(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
