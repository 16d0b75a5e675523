"""Identical means: the same files, byte by byte."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from dissmodel_platform.execution.outputs import Artifact
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.services.compare import compare_outputs
from dissmodel_platform.types import Sha256


def original(**files: str) -> Experiment:
    outputs = [{"name": name, "sha256": sha256} for name, sha256 in files.items()]
    return cast(Experiment, SimpleNamespace(id="0" * 32, outcome={"outputs": outputs}))


def artifacts(**files: str) -> list[Artifact]:
    return [Artifact(name, "", Sha256(sha256), 1, "") for name, sha256 in files.items()]


def compared(before: dict[str, str], after: dict[str, str]) -> dict[str, Any]:
    return compare_outputs(original(**before), artifacts(**after))


def test_the_same_files_are_identical_whatever_their_order() -> None:
    found = compared({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    assert (found["of"], found["verdict"]) == ("0" * 32, "identical")
    assert [entry["name"] for entry in found["artifacts"]] == ["a", "b"]


def test_one_file_that_differs_is_named_with_both_checksums() -> None:
    found = compared({"a": "1", "b": "2"}, {"a": "1", "b": "3"})
    assert found["verdict"] == "different"
    assert found["artifacts"][1] == {
        "name": "b",
        "original_sha256": "2",
        "reproduced_sha256": "3",
        "identical": False,
    }


def test_a_file_that_one_side_lacks_is_a_difference() -> None:
    assert compared({"a": "1"}, {})["artifacts"] == [
        {"name": "a", "original_sha256": "1", "reproduced_sha256": None, "identical": False}
    ]
    assert compared({}, {"a": "1"})["verdict"] == "different"


def test_two_runs_without_outputs_are_identical() -> None:
    assert compared({}, {}) == {"of": "0" * 32, "verdict": "identical", "artifacts": []}
