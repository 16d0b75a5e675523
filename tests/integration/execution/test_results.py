"""What a model leaves behind becomes the experiment's result, the same however it was started."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.packages import request_for
from dissmodel_platform.environments.store import clean_environment
from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.run import Runner, RunnerParts
from dissmodel_platform.storage.objects import ObjectStore

pytestmark = pytest.mark.anyio

VALUES = [1.0, 2.5, 1e-3]
PARAMETERS = {"rate": 0.07, "end_time": 5}


@pytest.fixture
async def grid(lab: Any) -> str:
    uri: str = await lab.upload(json.dumps(VALUES), "grid.json")
    return uri


async def test_a_forked_run_a_fresh_run_and_the_command_line_give_the_same_bytes(
    lab: Any, grid: str, tmp_path: Path
) -> None:
    forked = await lab.run("growth", PARAMETERS, input_dataset=grid)
    launcher = Launcher(0, inspect_walls())
    parts = {**vars(lab.parts), "launcher": launcher}
    fresh = await lab.run(
        "growth", PARAMETERS, input_dataset=grid, runner=Runner(RunnerParts(**parts))
    )
    await launcher.close()
    assert (forked.outcome["start_mode"], fresh.outcome["start_mode"]) == ("fork", "fresh")
    assert await lab.result(forked) == await lab.result(fresh)

    prepared = await lab.parts.preparer.prepare(_spec(lab, "growth"))
    (tmp_path / "grid.json").write_text(json.dumps(VALUES))
    subprocess.run(
        [
            str(prepared.environment.python), "-m", "behaviours.growth", "run",
            "--input", "grid.json", "--output", "result.txt", "--preserve-output-name",
            "--param", "rate=0.07", "--param", "end_time=5",
        ],
        cwd=tmp_path,
        env=clean_environment(prepared.environment, str(tmp_path)),
        check=True,
        capture_output=True,
    )  # fmt: skip
    assert await lab.result(forked) == (tmp_path / "result.txt").read_text()


async def test_the_record_names_lock_package_commit_and_phase_times(
    lab: Any, grid: str, repositories: Any
) -> None:
    experiment = await lab.run("growth", PARAMETERS, input_dataset=grid)
    outcome = experiment.outcome
    repository = repositories.repository("behaviours")
    assert outcome["package_commit"] == repositories.git(repository, "rev-parse", "v0.1.0")
    assert outcome["package_version"] == "0.1.0"
    assert outcome["reproducible"] is True
    assert len(outcome["environment_key"]) == len(outcome["lock_sha256"]) == 64
    assert {f"time_{phase}_sec" for phase in ("validate", "load", "run", "save", "total")} <= set(
        outcome["metrics"]
    )
    assert outcome["usage"]["max_rss_bytes"] > 0


async def test_writes_through_dissmodel_io_to_the_default_address_and_to_relative_paths_are_kept(
    lab: Any,
) -> None:
    experiment = await lab.run("writes-everywhere")
    files = await lab.files(experiment)
    assert files == {
        "tables/report.md": b"# Report",
        "output.tif": b"II*\0raster",
        f"output_{experiment.id}.csv": b"a,b\n1,2\n",
        "deep/er/notes.txt": b"# Report",
    }
    assert experiment.outcome["output_path"] == (
        f"s3://dissmodel-outputs/experiments/{experiment.id}/output.tif"
    )
    media = {entry["name"]: entry["media_type"] for entry in experiment.outcome["outputs"]}
    assert media["output.tif"].startswith("image/tiff")


async def test_checksums_that_are_not_those_of_the_bytes_are_not_recorded_and_told(
    lab: Any,
) -> None:
    experiment = await lab.run("writes-everywhere")
    assert experiment.status == "completed"
    assert set(experiment.outcome["artifacts"]) == {"report", "output"}
    told = [line.text for line in await lab.log(experiment) if line.stream == "platform"]
    for name in ("'invented'", "'report.md'"):
        [sentence] = [line for line in told if f"the artifact {name}" in line]
        assert sentence in experiment.flat_record([])["warnings"]


async def test_links_and_pipes_are_refused_and_named(lab: Any, grid: str) -> None:
    experiment = await lab.run("writes-links", input_dataset=grid)
    assert await lab.files(experiment) == {"result.txt": b"the only file"}
    told = [line.text for line in await lab.log(experiment)]
    for name in ("link", "directory", "pipe"):
        assert f"{name} is no regular file and was not collected." in told
    for name in ("one", "two"):
        start = f"{name} is another name of a file (a hard link)"
        assert any(line.startswith(start) for line in told)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"output_max_files": 5}, "more than 5 files and directories"),
        ({"output_max_bytes": 4_000}, "more than 4,000 bytes"),
    ],
)
async def test_a_run_that_leaves_too_much_fails_and_stores_nothing(
    lab: Any, limit: dict[str, int], reason: str
) -> None:
    parameters = {"files": 5, "bytes": 1_000}
    fitting = await lab.run("writes-many", parameters)
    assert len(await lab.files(fitting)) == 6
    experiment = await lab.run("writes-many", parameters, runner=lab.runner(**limit))
    assert experiment.status == "failed"
    assert reason in await lab.last_line(experiment)
    assert await lab.files(experiment) == {}


async def test_a_directory_as_output_path_has_artifacts_and_no_main_one(lab: Any) -> None:
    experiment = await lab.run("writes-directory")
    assert experiment.status == "completed", await lab.log(experiment)
    assert set(await lab.files(experiment)) == {"cube.zarr/0.0", "cube.zarr/0.1"}
    assert experiment.outcome["output_path"] is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"output_path": "../result.txt"},
        {"root": "etc/hostname"},
        {"output_path": "other.txt"},
        {"object": "dissmodel-outputs/../../etc/hosts"},
    ],
)
async def test_an_output_path_that_the_run_did_not_write_fails(
    lab: Any, parameters: dict[str, str]
) -> None:
    experiment = await lab.run("writes-to", parameters)
    assert experiment.status == "failed"
    reason = await lab.last_line(experiment)
    assert next(iter(parameters.values())) in reason
    assert "it wrote result.txt" in reason
    assert await lab.files(experiment) == {}


async def test_an_output_path_by_a_detour_is_still_the_main_artifact(lab: Any) -> None:
    experiment = await lab.run("writes-to", {"output_path": "./deep/../result.txt"})
    assert await lab.result(experiment) == "done"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dissmodel-outputs/../escaped.txt", "is not a name below the experiment's outputs"),
        ("somebody-elses/x.txt", "A run writes to s3://dissmodel-outputs/ only"),
    ],
)
async def test_writes_through_dissmodel_io_stay_in_the_run(
    lab: Any, name: str, reason: str
) -> None:
    experiment = await lab.run("writes-object", {"object": name})
    assert experiment.status == "failed"
    assert reason in await lab.last_line(experiment)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("none", "BadRecord.save() returned None; it must return the record."),
        ("status", "save() returned the record with status 'failed'."),
        ("output_path", "The record that save() returned does not fit: output_path:"),
        ("artifacts", "The record that save() returned does not fit: artifacts:"),
    ],
)
async def test_a_record_that_does_not_fit_fails_with_a_sentence(
    lab: Any, how: str, reason: str
) -> None:
    experiment = await lab.run("bad-record", {"how": how})
    assert experiment.status == "failed"
    assert (await lab.last_line(experiment)).startswith(reason)
    assert await lab.files(experiment) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a pipe", "The model ended its own process with exit code 0"),
        ("[" * 900 + "]" * 900, "nested too deep"),
        ("9" * 5_000, "The record that save() returned cannot be read"),
        ('{"record": {"status": 7}}', "does not fit: status:"),
    ],
)
async def test_a_result_that_the_model_forged_fails_its_own_run_only(
    lab: Any, content: str, reason: str
) -> None:
    experiment = await lab.run("forges-result", {"content": content})
    assert experiment.status == "failed"
    assert reason in await lab.last_line(experiment)


async def test_the_version_of_dissmodel_is_that_of_the_lock_whatever_a_model_says(
    lab: Any,
) -> None:
    claimed = {"status": "completed", "code_version": "9.9", "output_path": None}
    record = {**claimed, "artifacts": {}, "metrics": {}, "logs": ["x" * 100_000]}
    experiment = await lab.run("forges-result", {"content": json.dumps({"record": record})})
    assert experiment.status == "completed"
    assert experiment.outcome["code_version"].startswith("0.6")
    assert len(await lab.last_line(experiment)) == 65_536


async def test_numbers_of_numpy_and_texts_that_cannot_be_stored_do_not_spoil_a_result(
    lab: Any,
) -> None:
    experiment = await lab.run("bad-record", {"how": "numbers"})
    assert await lab.result(experiment) == "done"
    metrics = experiment.outcome["metrics"]
    assert (metrics["whole"], metrics["real"], metrics["array"]) == (3, 0.5, [0, 1, 2])
    assert (metrics["none"], metrics["endless"]) == (None, None)
    assert metrics["text"] == "a\N{SYMBOL FOR NULL}b?c"
    assert await lab.last_line(experiment) == "a log line with \N{SYMBOL FOR NULL} and ?"


async def test_forks_do_not_repeat_one_anothers_draws(lab: Any) -> None:
    first, second = await lab.run("draws"), await lab.run("draws")
    assert first.submission.random_seed != second.submission.random_seed
    assert await lab.result(first) != await lab.result(second)


async def test_a_fork_and_a_fresh_process_draw_the_same_with_the_same_seed(lab: Any) -> None:
    forked = await lab.run("draws")
    launcher = Launcher(0, inspect_walls())
    again = await lab.submitter.store(
        forked.submission, submitted_by="a test", priority=forked.priority
    )
    await Runner(RunnerParts(**{**vars(lab.parts), "launcher": launcher})).run(again.id)
    await launcher.close()
    fresh = await lab.get(again)
    assert fresh.outcome["start_mode"] == "fresh"
    assert await lab.result(fresh) == await lab.result(forked)


async def test_a_reproduction_is_identical_and_keeps_names_made_of_the_id(lab: Any) -> None:
    original = await lab.run("writes-everywhere")
    again = await lab.reproduce(original)
    assert again.id != original.id
    assert again.outcome["reproduction"]["verdict"] == "identical"
    assert await lab.files(again) == await lab.files(original)
    twice = await lab.reproduce(again)
    assert twice.outcome["reproduction"] == {**again.outcome["reproduction"], "of": again.id}


async def test_a_reproduction_draws_the_same_numbers_and_reads_the_same_input(
    lab: Any, grid: str
) -> None:
    drawn = await lab.run("draws")
    assert (await lab.reproduce(drawn)).outcome["reproduction"]["verdict"] == "identical"
    grown = await lab.run("growth", PARAMETERS, input_dataset=grid)
    await lab.database.execute(
        "UPDATE objects SET sha256 = %(other)s WHERE uri = %(uri)s", uri=grid, other="0" * 64
    )
    again = await lab.reproduce(grown)
    assert again.outcome["reproduction"]["verdict"] == "identical"
    assert again.input_sha256 == grown.input_sha256


async def test_a_reproduction_that_differs_says_which_artifact(
    lab: Any, lab_store: ObjectStore
) -> None:
    original = await lab.run("describes")  # holds the time
    again = await lab.reproduce(original)
    verdict = again.outcome["reproduction"]
    assert verdict["verdict"] == "different"
    [compared] = verdict["artifacts"]
    assert compared["name"] == "result.txt"
    assert compared["original_sha256"] != compared["reproduced_sha256"]


async def test_the_flat_record_is_a_record_of_dissmodel(lab: Any, grid: str) -> None:
    experiment: Experiment = await lab.run("growth", PARAMETERS, input_dataset=grid)
    flat = json.dumps(experiment.flat_record(["a line"]))
    prepared = await lab.parts.preparer.prepare(_spec(lab, "growth"))
    program = (
        "import sys; from dissmodel.executor.schemas import ExperimentRecord;"
        "print(ExperimentRecord.model_validate_json(sys.stdin.read()).model_dump_json())"
    )
    done = subprocess.run(
        [str(prepared.environment.python), "-c", program],
        input=flat, capture_output=True, text=True, check=True,
    )  # fmt: skip
    read = json.loads(done.stdout)
    assert read["experiment_id"] == experiment.id
    assert read["artifacts"]["output"] == experiment.outcome["outputs"][0]["sha256"]
    assert read["parameters"] == PARAMETERS
    assert read["source"]["uri"] == grid
    assert read["metrics"] == experiment.outcome["metrics"]


def _spec(lab: Any, class_name: str) -> Any:
    from dissmodel_platform.registry.spec import parse_spec

    spec = parse_spec("models/inline.toml", lab.spec(class_name)).spec
    assert request_for(spec.package, spec.dissmodel, allow_local=True)
    return spec
