"""The record that clients read: the library's fields and the platform's beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dissmodel_platform.experiments.record import Experiment, Source, Submission
from dissmodel_platform.types import ExperimentId, ExperimentStatus, Priority

ID = ExperimentId("0123456789abcdef0123456789abcdef")
OTHER_ID = ExperimentId("f" * 32)

# The fields of dissmodel 0.6's ExperimentRecord that are written out.
LIBRARY_FIELDS = {
    "experiment_id",
    "created_at",
    "model_name",
    "model_commit",
    "code_version",
    "resolved_spec",
    "source",
    "input_format",
    "column_map",
    "band_map",
    "parameters",
    "period",
    "output_path",
    "artifacts",
    "metrics",
    "status",
    "logs",
}
SUBMISSION = Submission(
    model_name="flood",
    model_commit="1" * 40,
    spec_source="[model]\n",
    resolved_spec={"z": 1, "a": {"y": 2, "b": 3}},
    source=Source(type="s3", uri="s3://dissmodel-inputs/inputs/a/grid.zip", checksum="a" * 64),
    input_format="vector",
    parameters={"rate": 0.1, "name": "maré"},
    column_map={"uso": "landuse"},
    band_map={"1": "dem"},
    inputs=[],
    random_seed=42,
    warnings=["an unknown key"],
)
CREATED = datetime(2026, 8, 1, 9, 0, 0, 123456, timezone(timedelta(hours=-3)))
STARTED = datetime(2026, 8, 1, 12, 0, 1, tzinfo=UTC)
FINISHED = datetime(2026, 8, 1, 12, 0, 2, tzinfo=UTC)
OUTCOME = {
    "source_checksum": "b" * 64,
    "code_version": "0.6.2",
    "period": [2020, 2030],
    "output_path": "s3://dissmodel-outputs/x.gpkg",
    "artifacts": {"output": "c" * 64, "map": "d" * 64},
    "metrics": {"time_run_sec": 1.5},
    "inputs": [{"name": "input_dataset"}],
    "outputs": [{"name": "x.gpkg"}],
    "environment_key": "e" * 64,
    "lock_sha256": "f" * 64,
    "package_version": "1.0",
    "package_commit": "2" * 40,
    "start_mode": "forked",
    "reproducible": True,
    "reproduction": {"identical": True},
    "source_tree_sha256": "9" * 64,
}
PENDING = Experiment(
    id=ID,
    status=ExperimentStatus.PENDING,
    priority=Priority.HIGH,
    submitted_by="a modeller",
    created_at=CREATED,
    started_at=None,
    finished_at=None,
    attempt=0,
    worker=None,
    queue_job_id=7,
    reproduces=None,
    submission=SUBMISSION,
    outcome={},
    progress=None,
)
COMPLETED = replace(
    PENDING,
    status=ExperimentStatus.COMPLETED,
    started_at=STARTED,
    finished_at=FINISHED,
    attempt=2,
    worker="a worker",
    reproduces=OTHER_ID,
    outcome=OUTCOME,
    progress={"time": 2030.0},
)


@pytest.mark.parametrize("experiment", [PENDING, COMPLETED])
def test_the_flat_record_holds_the_librarys_fields_and_is_json(experiment: Experiment) -> None:
    assert set(experiment.library_record()) == LIBRARY_FIELDS
    flat = experiment.flat_record(["one line"])
    assert set(flat) > LIBRARY_FIELDS
    assert flat["logs"] == ["one line"]
    same = {name: value for name, value in flat.items() if name in LIBRARY_FIELDS - {"logs"}}
    assert {**same, "logs": []} == experiment.library_record()
    assert json.loads(json.dumps(flat)) == flat


def test_both_records_have_the_same_fields_from_submission_to_end() -> None:
    assert list(PENDING.flat_record([])) == list(COMPLETED.flat_record([]))


@pytest.mark.parametrize("experiment", [PENDING, COMPLETED])
def test_times_are_rfc_3339_with_an_offset(experiment: Experiment) -> None:
    flat = experiment.flat_record([])
    expected = {
        "created_at": experiment.created_at,
        "started_at": experiment.started_at,
        "finished_at": experiment.finished_at,
    }
    for name, moment in expected.items():
        if moment is None:
            assert flat[name] is None
            continue
        assert flat[name][10] == "T"
        read = datetime.fromisoformat(flat[name])
        assert read.utcoffset() is not None
        assert read == moment


def test_what_came_out_stands_beside_what_was_asked() -> None:
    flat = COMPLETED.flat_record([])
    assert flat["experiment_id"] == ID
    assert flat["status"] == "completed"
    assert flat["output_sha256"] == OUTCOME["artifacts"]["output"]  # type: ignore[index]
    assert flat["reproduces"] == OTHER_ID
    assert flat["random_seed"] == 42
    assert flat["warnings"] == ["an unknown key"]
    for name, value in OUTCOME.items():
        assert name == "source_checksum" or flat[name] == value


def test_a_pending_experiment_has_empty_results() -> None:
    flat = PENDING.flat_record([])
    assert (flat["code_version"], flat["artifacts"], flat["metrics"]) == ("", {}, {})
    assert (flat["inputs"], flat["outputs"]) == ([], [])
    for name in ("period", "output_path", "output_sha256", "environment_key", "reproducible"):
        assert flat[name] is None


def test_the_inputs_checksum_is_the_one_that_was_read_else_the_one_that_was_given() -> None:
    assert PENDING.input_sha256 == "a" * 64
    assert COMPLETED.input_sha256 == "b" * 64
    assert COMPLETED.library_record()["source"]["checksum"] == "b" * 64
    unknown = SUBMISSION.model_copy(update={"source": Source(type="http", uri="x")})
    without = replace(PENDING, submission=unknown)
    assert without.input_sha256 is None
    assert without.library_record()["source"]["checksum"] == ""


def test_keys_keep_the_authors_order() -> None:
    record = PENDING.library_record()
    assert json.dumps(record["resolved_spec"]) == '{"z": 1, "a": {"y": 2, "b": 3}}'
    assert json.dumps(Submission(**SUBMISSION.model_dump()).resolved_spec) == json.dumps(
        record["resolved_spec"]
    )


def test_a_submission_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        SUBMISSION.random_seed = 1  # type: ignore[misc]
