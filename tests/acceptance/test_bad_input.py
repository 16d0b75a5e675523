"""What bad input gets: a sentence that says what to do, as early as it can be known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.support import GRID, Up, commit, poll, submit_inline
from tests.processes import wait_until

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "{name}"
version = "0.1.0"
requires-python = "{python}"
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make small git repositories, each a package with one fault; returns where they are."""
    place = tmp_path_factory.mktemp("packages")
    broken = "raise SystemExit('the compiler of the ancients is missing')\n"
    for name, python in (("unbuildable", ">=3.11"), ("from-the-future", ">=3.99")):
        project = PROJECT.format(name=name, python=python)
        commit(place / name, {"pyproject.toml": project, "backend.py": broken}, tag="v0.1.0")
    return f"git+{place.as_uri()}"


@pytest.fixture
def example(platform: Up) -> str:
    """Say where the example's package is, without its tag."""
    return f"git+{(platform.home / 'local' / 'coastal-flood').as_uri()}"


@pytest.fixture
def end_of(http: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Run an inline spec to its end."""

    def run(package: str, class_name: str | None = "any", **request: Any) -> dict[str, Any]:
        spec = f'[model]\npackage = "{package}"\n'
        spec += f'class = "{class_name}"\n' if class_name else ""
        return poll(http, submit_inline(http, spec, **request)["job_id"])

    return run


def total(http: httpx.Client) -> int:
    return int(http.get("/jobs?limit=1").json()["total"])


def fields_of(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {error["field"]: error["message"] for error in answer.json()["errors"]}


def submit(http: httpx.Client, **request: Any) -> httpx.Response:
    return http.post("/submit_job", json={"model_name": "flood_vector", **request})


# --- before anything is queued


def test_an_unknown_model_is_not_found_and_the_nearest_names_are_told(
    http: httpx.Client, grid: dict[str, Any]
) -> None:
    before = total(http)
    answer = submit(http, model_name="flod_vectr", input_dataset=grid["uri"])
    assert answer.status_code == 404
    assert "flood_vector" in answer.json()["detail"]
    assert answer.json()["nearest"] == ["flood_vector"]
    shown = http.get("/models/game_of_lif")
    assert shown.status_code == 404
    assert shown.json()["nearest"] == ["game_of_life"]
    assert total(http) == before


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"end_time": "ten"}, "parameters.end_time"),
        ({"end_time": [10]}, "parameters.end_time"),
        ({"taxa_elevacao": True}, "parameters.taxa_elevacao"),
        ({"taxa_elevacao": None}, "parameters.taxa_elevacao"),
        ("end_time=10", "parameters"),
    ],
)
def test_a_parameter_of_the_wrong_type_is_refused_by_name(
    http: httpx.Client, grid: dict[str, Any], parameters: Any, field: str
) -> None:
    before = total(http)
    answer = submit(http, input_dataset=grid["uri"], parameters=parameters)
    assert fields_of(answer).keys() == {field}
    assert field in answer.json()["detail"]
    assert total(http) == before


def test_every_fault_of_a_request_is_told_at_once(http: httpx.Client) -> None:
    answer = submit(
        http,
        input_dataset="s3://dissmodel-inputs/inputs/tests/absent.zip",
        parameters={"end_time": "ten"},
        column_map={"height": "z"},
    )
    assert fields_of(answer).keys() == {
        "input_dataset",
        "parameters.end_time",
        "column_map.height",
    }


@pytest.mark.parametrize("name", ["png", "", "VECTOR"])
def test_an_unknown_input_format_is_refused(http: httpx.Client, name: str) -> None:
    answer = submit(http, input_dataset="", input_format=name)
    assert "geotiff" in fields_of(answer)["input_format"]


def test_an_unknown_priority_is_refused(http: httpx.Client) -> None:
    answer = submit(http, input_dataset="", priority="urgent")
    assert "'high'" in fields_of(answer)["priority"]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://dissmodel-inputs/inputs/tests/absent.zip",
        "s3://dissmodel-outputs/experiments/" + "0" * 32 + "/output.gpkg",
        "s3://somebody-elses-bucket/grid.zip",
        "s3://",
        "grid.zip",
        "ftp://example.org/grid.zip",
        "http://127.0.0.1:1/grid.zip",
        "http://",
        "/\0",
    ],
)
def test_an_input_that_does_not_exist_is_refused_before_anything_is_queued(
    http: httpx.Client, uri: str
) -> None:
    before = total(http)
    assert fields_of(submit(http, input_dataset=uri)).keys() == {"input_dataset"}
    assert total(http) == before


def test_a_missing_input_inside_the_parameters_is_refused_by_its_place(
    http: httpx.Client, grid: dict[str, Any]
) -> None:
    absent = "s3://dissmodel-inputs/inputs/tests/absent.csv"
    parameters = {"demand": {"files": [grid["uri"], absent]}}
    answer = submit(http, input_dataset=grid["uri"], parameters=parameters)
    assert fields_of(answer).keys() == {"parameters.demand.files.1"}


def test_a_path_of_the_server_is_read_where_the_operator_allows_it_only(
    http: httpx.Client, input_directory: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "grid.zip"
    outside.write_bytes(GRID.read_bytes())
    link = input_directory / "link.zip"
    link.symlink_to(outside)
    around = f"{input_directory}/../{tmp_path.name}/grid.zip"
    for path in (outside, link, around, outside.as_uri(), "/etc/passwd"):
        answer = submit(http, input_dataset=str(path))
        assert "PLATFORM_INPUT_DIRECTORIES" in fields_of(answer)["input_dataset"], path
    absent = submit(http, input_dataset=str(input_directory / "absent.zip"))
    assert "There is no file" in fields_of(absent)["input_dataset"]
    link.unlink()
    for inside in (str(input_directory / "grid.zip"), (input_directory / "grid.zip").as_uri()):
        answer = submit(http, input_dataset=inside, parameters={"end_time": 1})
        assert answer.status_code == 200, answer.text
        job = poll(http, answer.json()["job_id"])
        assert job["status"] == "completed", job["logs"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "empty"),
        ("[model\n", "line 1"),
        ("[module]\n", "[model]"),
        ("[model]\nclass = 3\n", "class must be text"),
    ],
)
def test_an_inline_spec_that_cannot_be_read_is_refused_with_the_place(
    http: httpx.Client, spec: str, said: str
) -> None:
    request = {"model_spec_toml": spec, "input_dataset": ""}
    answer = http.post("/submit_job_inline", json=request)
    assert said in fields_of(answer)["model_spec_toml"]


# --- packages that cannot be installed


def assert_last_line(job: dict[str, Any], package: str, *words: str) -> None:
    """See that the log ends with one sentence that names package and cause, the output above."""
    assert job["status"] == "failed", job["logs"]
    *above, last = job["logs"]
    assert package in last
    for word in words:
        assert word in last, last
    assert last.endswith(".")
    assert len(last) < 600
    assert above, "the tool's own words stand above"


def test_a_package_that_no_index_has(end_of: Callable[..., dict[str, Any]]) -> None:
    package = "no-package-goes-by-this-name-at-all==1.0"
    assert_last_line(end_of(package), package, "not found")


def test_a_package_whose_repository_is_not_there(
    end_of: Callable[..., dict[str, Any]], packages: str
) -> None:
    assert_last_line(end_of(f"{packages}/absent@v0.1.0"), "absent", "repository is not found")


def test_a_version_that_no_index_has(end_of: Callable[..., dict[str, Any]]) -> None:
    assert_last_line(end_of("dissmodel==99.99"), "dissmodel==99.99", "no such version")


def test_a_tag_that_the_repository_has_not(
    end_of: Callable[..., dict[str, Any]], example: str
) -> None:
    assert_last_line(end_of(f"{example}@v9.9"), "coastal-flood@v9.9", "no such version")


def test_a_package_whose_build_fails(end_of: Callable[..., dict[str, Any]], packages: str) -> None:
    job = end_of(f"{packages}/unbuildable@v0.1.0")
    assert_last_line(job, "unbuildable", "build failed")
    assert any("compiler of the ancients" in line for line in job["logs"][:-1])


def test_a_package_for_another_python(end_of: Callable[..., dict[str, Any]], packages: str) -> None:
    job = end_of(f"{packages}/from-the-future@v0.1.0")
    assert_last_line(job, "from-the-future", "no matching Python")


def test_a_failed_environment_is_told_in_the_listing_of_models(
    platform: Up, http: httpx.Client, packages: str
) -> None:
    spec = f'[model]\nclass = "any"\npackage = "{packages}/absent@v0.1.0"\n'
    commit(platform.registry, {"models/homeless.toml": spec})
    assert http.post("/admin/sync").status_code == 200

    def failed() -> dict[str, Any] | None:
        models = {m["name"]: m for m in http.get("/models?limit=1000").json()["models"]}
        environment = models["homeless"]["environment"]
        return environment if environment["state"] == "failed" else None

    assert "repository is not found" in wait_until(failed, "its build has failed")["error"]
    commit(platform.registry, {"models/homeless.toml": None})
    assert http.post("/admin/sync").json()["removed"] == ["homeless"]


# --- models that cannot be run


def test_a_model_that_raises_says_what_it_raised_below_the_traceback(
    end_of: Callable[..., dict[str, Any]], example: str, grid: dict[str, Any]
) -> None:
    parameters = {"end_time": -7}
    job = end_of(
        f"{example}@v0.1.0", "flood_vector", parameters=parameters, input_dataset=grid["uri"]
    )
    assert job["status"] == "failed"
    *above, last = job["logs"]
    assert last == "end_time is -7; it must be a whole number of years, 0 to 2147483647."
    text = "\n".join(above)
    assert text.count("Traceback (most recent call last)") == 1
    assert "flood_executor.py" in text
    assert "raise ValueError(" in text
    assert job["output_path"] is None
    assert job["output_sha256"] is None


@pytest.mark.parametrize("class_name", [None, "walking"])
def test_a_missing_or_unknown_class_is_answered_with_those_that_the_package_registers(
    end_of: Callable[..., dict[str, Any]], example: str, class_name: str | None
) -> None:
    job = end_of(f"{example}@v0.1.0", class_name)
    assert job["status"] == "failed"
    last = job["logs"][-1]
    assert "class" in last
    assert "flood_vector" in last
    assert (class_name or "no `class`") in last


def test_an_unknown_class_without_a_package_is_answered_with_the_built_in_ones(
    http: httpx.Client,
) -> None:
    job = poll(http, submit_inline(http, '[model]\nclass = "game_of_live"\n')["job_id"])
    assert job["status"] == "failed"
    assert "echo, game_of_life" in job["logs"][-1]


def test_an_input_that_the_model_cannot_read_fails_with_the_models_own_words(
    http: httpx.Client,
) -> None:
    answer = http.post("/data/upload", files={"file": ("grid.zip", b"no zip at all")})
    job = poll(http, submit(http, input_dataset=answer.json()["uri"]).json()["job_id"])
    assert job["status"] == "failed"
    assert "cannot be read as vector data" in job["logs"][-1]
