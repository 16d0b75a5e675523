"""What a request may set, against defaults alone and against a schema."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissmodel_platform.registry.parameters import check_names, check_parameters
from dissmodel_platform.registry.spec import ModelSpec, parse_spec

PLAIN = """\
[model]
class = "a"
land_use_types = ["f"]
[model.parameters]
end_time = 10
rate = 0.5
grow = true
crs = "EPSG:31983"
steps = [1]
betas = {a = 1}
"""
SCHEMA = (
    PLAIN
    + """\
[model.parameter_schema.end_time]
type = "integer"
minimum = 1
maximum = 100
unit = "years"
[model.parameter_schema.crs]
enum = ["EPSG:31983", "EPSG:31984"]
[model.parameter_schema.seed]
type = "integer"
"""
)


def spec_of(text: str) -> ModelSpec:
    parsed = parse_spec("models/a.toml", text)
    assert parsed.spec is not None, parsed.problems
    return parsed.spec


@pytest.mark.parametrize(
    "given",
    [
        {"end_time": 12},
        {"end_time": 12.5},
        {"rate": 1},
        {"grow": False},
        {"crs": "x"},
        {"steps": []},
        {"betas": {}},
        {"land_use_types": ["d"]},
        {},
    ],
)
def test_a_value_of_its_defaults_kind_is_accepted(given: dict[str, object]) -> None:
    check = check_parameters(spec_of(PLAIN), given)
    assert (check.errors, check.warnings) == ({}, [])


@pytest.mark.parametrize(
    "given",
    [
        {"end_time": "ten"},
        {"end_time": True},
        {"end_time": None},
        {"grow": 1},
        {"crs": 31983},
        {"steps": "1"},
        {"betas": [1]},
        {"rate": math.nan},
        {"rate": -math.inf},
        {"steps": [1, math.nan]},
        {"crs": "a\0b"},
        {"crs": "\ud800"},
        {"land_use_types": "f"},
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(given: dict[str, object]) -> None:
    check = check_parameters(spec_of(PLAIN), given)
    assert list(check.errors) == list(given)


def test_an_unknown_name_is_a_warning_where_there_is_no_schema() -> None:
    check = check_parameters(spec_of(PLAIN), {"end_tme": 3, "demand_csv": "x.csv"})
    assert check.errors == {}
    assert "did you mean 'end_time'" in check.warnings[0]
    assert "did you mean" not in check.warnings[1]


def test_an_unknown_name_is_refused_with_the_nearest_where_there_is_a_schema() -> None:
    check = check_parameters(spec_of(SCHEMA), {"end_tme": 3, "seed": 1, "rate": 1})
    assert list(check.errors) == ["end_tme"]
    assert "did you mean 'end_time'" in check.errors["end_tme"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"end_time": 0}, "at least 1 years"),
        ({"end_time": 101}, "at most 100 years"),
        ({"end_time": 2.5}, "whole number"),
        ({"end_time": True}, "whole number"),
        ({"crs": "EPSG:1"}, "one of"),
        ({"rate": "x"}, "a number"),
        ({"seed": "x"}, "whole number"),
    ],
)
def test_a_schema_refuses_what_it_excludes(given: dict[str, object], said: str) -> None:
    (message,) = check_parameters(spec_of(SCHEMA), given).errors.values()
    assert said in message


@pytest.mark.parametrize("given", [{"end_time": 1}, {"end_time": 100.0}, {"crs": "EPSG:31984"}])
def test_a_schema_accepts_its_bounds(given: dict[str, object]) -> None:
    assert check_parameters(spec_of(SCHEMA), given).errors == {}


def test_many_unknown_names_are_refused_quickly() -> None:
    given = {f"x{i}": 1 for i in range(50_000)}
    assert len(check_parameters(spec_of(SCHEMA), given).errors) == 50_000


def test_many_undeclared_names_are_warned_of_in_part_and_counted() -> None:
    check = check_parameters(spec_of(PLAIN), {f"x{i}": 1 for i in range(20_000)})
    assert check.errors == {}
    assert len(check.warnings) == 21
    assert check.warnings[-1].startswith("19980 more parameters")


def test_a_canonical_name_that_is_not_declared_is_refused_naming_the_declared() -> None:
    declared = {"elevation": "alt", "land_use": "uso"}
    errors = check_names(declared, {"elevation": "SRTM", "slope": "s"})
    assert errors == {"slope": "is not declared by the model, which knows 'elevation', 'land_use'"}


def test_any_canonical_name_is_accepted_where_the_model_declares_none() -> None:
    assert check_names({}, {"slope": "s", "elevation": 1}) == {}


@pytest.mark.parametrize("value", [None, "", 1.5, True, ["a"], "a\0"])
def test_a_canonical_name_maps_to_a_name_or_a_number(value: object) -> None:
    assert list(check_names({}, {"elevation": value})) == ["elevation"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["end_time", "crs", "seed", "steps", "other"]), JSON))
def test_no_request_makes_the_checks_raise(given: dict[str, object]) -> None:
    for text in (PLAIN, SCHEMA):
        check = check_parameters(spec_of(text), given)
        assert set(check.errors) <= set(given)
    check_names({"elevation": "alt"}, given)


def test_data_nested_without_end_is_refused_without_recursion() -> None:
    value: object = 1
    for _ in range(50_000):
        value = [value]
    assert "nested" in check_parameters(spec_of(PLAIN), {"steps": value}).errors["steps"]
