"""The words after a model's name: one input, and parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissmodel_platform.cli.runs import read_arguments
from dissmodel_platform.errors import ClientError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip
names = st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True)


def test_an_input_and_parameters_in_any_order() -> None:
    assert read_arguments(["grid.zip", "end_time=20"]) == ("grid.zip", {"end_time": 20})
    assert read_arguments(["end_time=20", "grid.zip"]) == ("grid.zip", {"end_time": 20})
    assert read_arguments(["end_time=20"]) == ("", {"end_time": 20})
    assert read_arguments([]) == ("", {})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("x=20", 20),
        ("x=0.5", 0.5),
        ("x=true", True),
        ("x=null", None),
        ('x=[1, "a"]', [1, "a"]),
        ("x=", ""),
        ("x=ten", "ten"),
        ("x=a=b", "a=b"),
        ('x="20"', "20"),
        ("x=NaN", "NaN"),
        ("x=-Infinity", "-Infinity"),
        ("x=[NaN]", "[NaN]"),
        ("x=" + "[" * 100_000, "[" * 100_000),
        ("x=" + "9" * 5_000, "9" * 5_000),
    ],
)
def test_a_value_is_json_where_it_is_json_and_text_elsewhere(word: str, value: Any) -> None:
    assert read_arguments([word]) == ("", {"x": value})


@settings(deadline=None)
@given(names, json_values)
def test_whatever_json_can_say_arrives(name: str, value: Any) -> None:
    assert read_arguments([f"{name}={json.dumps(value)}"]) == ("", {name: value})


@settings(deadline=None)
@given(names, st.text())
def test_no_value_breaks_the_reading(name: str, text: str) -> None:
    _, parameters = read_arguments([f"{name}={text}"])
    assert parameters.keys() == {name}
    json.dumps(parameters, allow_nan=False)


@pytest.mark.parametrize(
    "word",
    [
        "s3://dissmodel-inputs/inputs/a/b=c.zip",
        "https://example.org/grid?year=2020",
        "/data/run=1/grid.zip",
        "./a=b.zip",
        "=20",
    ],
)
def test_an_address_may_hold_an_equals_sign(word: str) -> None:
    assert read_arguments([word]) == (word, {})


def test_a_file_may_be_named_like_a_parameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_arguments(["year=2020.zip"]) == ("", {"year": "2020.zip"})
    (tmp_path / "year=2020.zip").touch()
    assert read_arguments(["year=2020.zip"]) == ("year=2020.zip", {})


def test_two_inputs_are_refused_by_name() -> None:
    with pytest.raises(ClientError, match=r"a\.zip and b\.zip"):
        read_arguments(["a.zip", "x=1", "b.zip"])


def test_a_parameter_given_twice_is_refused_by_name() -> None:
    with pytest.raises(ClientError, match="end_time is given twice"):
        read_arguments(["end_time=1", "end_time=2"])
