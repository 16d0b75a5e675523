"""``[model.example]``: what of it can be judged from the file alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.registry.bounded_toml import TomlDocument, read_toml
from dissmodel_platform.registry.example import Example, has_example, read_example
from dissmodel_platform.registry.problems import SpecProblem
from dissmodel_platform.registry.spec import parse_spec

HEAD = """\
[model]
class = "a"

[model.parameters]
end_time = 10

[model.parameter_schema.end_time]
type = "integer"
minimum = 1

"""


def read(table: str) -> tuple[Example, list[SpecProblem]]:
    text = HEAD + table
    spec = parse_spec("models/a.toml", text).spec
    document = read_toml(text)
    assert spec is not None
    assert isinstance(document, TomlDocument)
    assert has_example(spec)
    return read_example(spec, document)


def test_a_whole_example() -> None:
    example, problems = read('[model.example]\ninput = "data/a.zip"\nparameters = {end_time = 2}\n')
    assert (example, problems) == (Example("data/a.zip", {"end_time": 2}), [])
    assert example.is_file


def test_an_empty_table_is_a_run_on_the_defaults() -> None:
    example, problems = read("[model.example]\n")
    assert (example, problems) == (Example("", {}), [])
    assert not example.is_file


def test_without_the_table_there_is_no_example() -> None:
    spec = parse_spec("models/a.toml", HEAD).spec
    assert spec is not None
    assert not has_example(spec)


@pytest.mark.parametrize(
    "address", ["catalog:grid", "https://example.org/a.tif", "http://example.org/a", "s3://b/a"]
)
def test_addresses_are_no_files(address) -> None:
    example, problems = read(f'[model.example]\ninput = "{address}"\n')
    assert (example.is_file, problems) == (False, [])


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "data/../../secret", "data\\\\a.zip", "a\\u202eb", "a\\nb"]
)
def test_paths_out_of_the_repository_are_refused(path) -> None:
    _, (problem,) = read(f'[model.example]\ninput = "{path}"\n')
    assert (problem.code, problem.line, problem.is_error) == ("invalid-example", 12, True)
    assert problem.message.isprintable()


@pytest.mark.parametrize(
    ("table", "line", "sentence"),
    [
        ("input = 1", 12, "[model.example] input must be text, not a whole number."),
        ("\nparameters = []", 13, "[model.example] parameters must be a table, not a list."),
        (
            "parameters = {end_time = 0}",
            12,
            "[model.example] parameters: 'end_time' must be at least 1.",
        ),
        (
            "[model.example.parameters]\nend_tme = 1",
            13,
            "[model.example] parameters: 'end_tme' is not a parameter of 'a'; "
            "did you mean 'end_time'?",
        ),
    ],
)
def test_a_fault_has_its_place_and_a_sentence(table, line, sentence) -> None:
    _, (problem,) = read(f"[model.example]\n{table}\n")
    assert (problem.line, problem.is_error) == (line, True)
    assert problem.message == sentence


def test_a_key_that_is_not_read_is_a_warning() -> None:
    _, (problem,) = read('[model.example]\ninputs = "a"\n')
    assert (problem.severity, problem.line) == ("warning", 12)
    assert problem.message == "[model.example] 'inputs' is not read; did you mean 'input'?"


@given(st.text())
def test_no_path_that_is_accepted_leaves_the_repository(path) -> None:
    text = HEAD + "[model.example]\n"
    spec = parse_spec("models/a.toml", text).spec
    document = read_toml(text)
    assert spec is not None
    assert isinstance(document, TomlDocument)
    spec.example["input"] = path
    example, problems = read_example(spec, document)
    if example.is_file and not problems:
        assert not path.startswith("/")
        assert ".." not in path.split("/")
