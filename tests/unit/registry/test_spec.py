"""From a file of the registry to a ModelSpec, and what is said about the ones that are none."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissmodel_platform.registry.problems import MAX_PROBLEMS
from dissmodel_platform.registry.spec import ModelSpec, ParsedSpec, parse_spec

FLOOD = """\
[model]
name        = "flood_vector"
class       = "flood_vector"
package     = "coastal-flood==0.1.0"
description = "Sea-level rise on a vector grid"
dissmodel   = ">=0.6,<0.7"

[model.parameters]
taxa_elevacao = 0.5
end_time      = 10
"""

# The shape of real land-use models: data of their own beside and below [model].
LAND_USE = """\
[model]
executor_module = "disslucc.executors"
name = "lucc"
class = "lucc_continuous"
package = "git+https://example.org/disslucc@main"
land_use_no_data = "outros"
start = 2008-01-01

[model.land_use_types]
types = ["f", "d", "outros"]

[model.driver_columns]
cols = ["assentamen", "uc_us"]

[model.static]
f = -1

[model.parameters]
n_steps = 7
land_use_no_data = "none"

[model.bands]
elevation = "alt"
slope = 2

[model.columns]
id_cell = "id"

[[model.potential_data]]
lu = "f"
const = 0.7392
[model.potential_data.betas]
uc_us = 0.1754
"""


def read(text: str, path: str = "models/flood_vector.toml") -> ModelSpec:
    parsed = parse_spec(path, text)
    assert parsed.spec is not None, parsed.problems
    return parsed.spec


def codes(parsed: ParsedSpec) -> list[str]:
    return [problem.code for problem in parsed.problems]


def test_an_ordinary_spec_is_read_without_a_word() -> None:
    parsed = parse_spec("models/flood_vector.toml", FLOOD.encode())
    assert parsed.problems == ()
    spec = parsed.spec
    assert spec is not None
    assert (spec.name, spec.declared_name, spec.class_name) == ("flood_vector",) * 3
    assert spec.package == "coastal-flood==0.1.0"
    assert spec.dissmodel == ">=0.6,<0.7"
    assert spec.parameters == {"taxa_elevacao": 0.5, "end_time": 10}
    assert spec.extra == {}
    assert spec.document == tomllib.loads(FLOOD)
    assert spec.source_text == FLOOD


def test_other_keys_of_the_model_are_its_own_data() -> None:
    spec = read(LAND_USE, "models/lucc.toml")
    assert set(spec.extra) == {
        "land_use_no_data",
        "start",
        "land_use_types",
        "driver_columns",
        "static",
        "potential_data",
    }
    assert spec.bands == {"elevation": "alt", "slope": 2}
    assert spec.columns == {"id_cell": "id"}


def test_own_data_gives_way_to_defaults_and_defaults_to_the_request() -> None:
    spec = read(LAND_USE, "models/lucc.toml")
    merged = spec.merged_parameters({"n_steps": 3, "demand_csv": "s3://x/d.csv"})
    assert merged["land_use_no_data"] == "none"
    assert merged["n_steps"] == 3
    assert merged["demand_csv"] == "s3://x/d.csv"
    assert merged["potential_data"] == [{"lu": "f", "const": 0.7392, "betas": {"uc_us": 0.1754}}]
    assert merged["start"] == "2008-01-01"


def test_land_use_types_in_a_table_become_the_list_that_the_command_line_makes() -> None:
    spec = read(LAND_USE, "models/lucc.toml")
    assert spec.merged_parameters({})["land_use_types"] == ["f", "d", "outros"]
    assert spec.document["model"]["land_use_types"] == {"types": ["f", "d", "outros"]}


def test_merged_parameters_share_nothing_with_the_spec() -> None:
    spec = read(LAND_USE, "models/lucc.toml")
    spec.merged_parameters({})["potential_data"].append("changed by a model")
    assert len(spec.merged_parameters({})["potential_data"]) == 1


@pytest.mark.parametrize(
    ("key", "most"), [("description", 10_000), ("class", 1_000), ("package", 1_000)]
)
def test_a_text_that_listings_hold_is_bounded(key: str, most: int) -> None:
    text = "x" * most
    assert parse_spec("models/a.toml", f'[model]\n{key} = "{text}"\n').errors == ()
    (problem,) = parse_spec("models/a.toml", f'[model]\n{key} = "{text}x"\n').errors
    assert (problem.code, problem.line) == ("too-long", 2)
    assert str(most) in problem.message


def test_a_missing_class_is_accepted_with_a_warning() -> None:
    parsed = parse_spec("models/a.toml", '[model]\nname = "a"\n')
    assert parsed.spec is not None
    assert parsed.spec.class_name is None
    assert codes(parsed) == ["no-class"]


def test_a_name_other_than_the_files_stem_is_a_warning_and_the_stem_counts() -> None:
    parsed = parse_spec("models/flood_v2.toml", FLOOD)
    assert parsed.spec is not None
    assert parsed.spec.name == "flood_v2"
    assert parsed.spec.declared_name == "flood_vector"
    (problem,) = parsed.problems
    assert (problem.code, problem.severity, problem.line) == ("name-differs", "warning", 2)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("pakage", "package"), ("Package", "package"), ("executor-module", "executor_module")],
)
def test_a_misspelt_key_is_a_warning_with_what_was_meant(key: str, meant: str) -> None:
    parsed = parse_spec("models/a.toml", f'[model]\nclass = "a"\n{key} = "x"\n')
    assert parsed.spec is not None
    (problem,) = parsed.problems
    assert (problem.code, problem.severity, problem.line) == ("unknown-key", "warning", 3)
    assert repr(meant) in problem.message


@pytest.mark.parametrize("key", ["driver_columns", "static", "resolution", "potential", "classes"])
def test_keys_that_real_models_have_are_not_taken_for_misspelt(key: str) -> None:
    assert codes(parse_spec("models/a.toml", f'[model]\nclass = "a"\n{key} = 1\n')) == []


def test_keys_outside_the_model_table_are_pointed_out() -> None:
    parsed = parse_spec("models/a.toml", '[model]\nclass = "a"\n[parameters]\nx = 1\n')
    (problem,) = parsed.problems
    assert (problem.code, problem.line, problem.severity) == ("outside-model", 3, "warning")


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("[model]\nname = \n", "invalid-toml", 2, 8),
        ("[model]\nname = 'a", "invalid-toml", 2, 10),
        ("[model]\na = 1\na = 2\n", "invalid-toml", 3, 6),
        ("", "empty-file", None, None),
        (" \n\t\n", "empty-file", None, None),
        ("[models]\nclass = 'a'\n", "no-model-table", 1, 1),
        ("# nothing\n", "no-model-table", None, None),
        ("model = 1\n", "invalid-type", 1, 1),
        ("[[model]]\n", "invalid-type", 1, 1),
        ("[model]\nclass = 1\n", "invalid-type", 2, 1),
        ("[model]\n\n  package = ['x']\n", "invalid-type", 3, 3),
        ("[model]\npackage = ''\n", "invalid-package", 2, 1),
        ("[model]\npackage = '--index-url=x'\n", "invalid-package", 2, 1),
        ('[model]\npackage = "a\\nb"\n', "invalid-package", 2, 1),
        ("[model]\nexecutor_module = '-c'\n", "invalid-executor-module", 2, 1),
        ("[model]\nparameters = 3\n", "invalid-type", 2, 1),
        ("[model]\ntags = ['a', 1]\n", "invalid-type", 2, 1),
        ("[model.bands]\nelevation = 1.5\n", "invalid-type", 2, 1),
        ("[model.columns]\nelevation = 3\n", "invalid-type", 2, 1),
        ("[model.parameters]\nx = nan\n", "number-not-finite", 2, 1),
        ("[model.parameters]\nx = [1, -inf]\n", "number-not-finite", 2, 1),
        ("[model.parameters]\nx = 1e999\n", "number-not-finite", 2, 1),
        ("[model]\nx = 9223372036854775808\n", "number-out-of-range", 2, 1),
        ("[model]\nx = " + "9" * 5000, "number-out-of-range", 2, 5),
        ('[model]\nx = "\\u0000"\n', "nul-character", 2, 1),
        ('[model]\n"a\\u0000" = 1\n', "nul-character", 1, 1),
        ("[model]\nx = '\0'\n", "nul-character", 2, 6),
        ("\ufeff[model]\n", "byte-order-mark", 1, 1),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "lfs-pointer", None, None),
        ("[model]\n" + "x" * 300_000, "too-large", None, None),
        ("[model]\nx = " + "[" * 50 + "]" * 50, "too-deep", 2, 37),
        ("[model" + ".a" * 20 + "]\nx" + ".a" * 20 + " = 1", "too-deep", 1, 1),
        ("[model.parameter_schema]\nx = 1\n", "invalid-schema", 2, 1),
        ("[model.parameter_schema.x]\ntype = 'float'\n", "invalid-schema", 2, 1),
        ("[model.parameter_schema.x]\nminimum = 2\nmaximum = 1\n", "invalid-schema", 2, 1),
        ("[model.parameter_schema.x]\nenum = 1\n", "invalid-schema", 2, 1),
        (
            "[model.parameter_schema.x]\nmaximum = 2\n[model.parameters]\nx = 3\n",
            "invalid-schema",
            1,
            1,
        ),
    ],
)
def test_a_faulty_file_is_refused_with_its_place(
    text: str, code: str, line: int | None, column: int | None
) -> None:
    parsed = parse_spec("models/a.toml", text)
    assert parsed.spec is None
    (problem,) = parsed.errors
    assert (problem.code, problem.line, problem.column) == (code, line, column)
    assert problem.path == "models/a.toml"
    assert problem.message.endswith((".", "?"))


def test_bytes_that_are_not_utf8_are_refused_with_their_place() -> None:
    (problem,) = parse_spec("models/a.toml", b"[model]\nname = '\xe9'\n").problems
    assert (problem.code, problem.line, problem.column) == ("not-utf8", 2, 9)


def test_half_a_character_in_a_request_is_refused() -> None:
    (problem,) = parse_spec("models/a.toml", "[model]\nname = '\ud800'\n").problems
    assert problem.code == "not-utf8"


@pytest.mark.parametrize("stem", ["-x", ".x", "a b", "é", "a/../b\\", "x" * 101, "", "a\n"])
def test_a_stem_that_cannot_be_a_name_is_refused(stem: str) -> None:
    parsed = parse_spec(f"models/{stem}.toml", FLOOD)
    if stem == "a/../b\\":
        stem = "b\\"
    assert codes(parsed) == ["invalid-name"]


def test_no_table_of_many_faults_grows_without_bound() -> None:
    text = "[model.bands]\n" + "".join(f"b{i} = 0.5\n" for i in range(5_000))
    assert len(parse_spec("models/a.toml", text).problems) == MAX_PROBLEMS


def test_messages_stay_short_however_long_the_key() -> None:
    text = f"[{'k' * 100_000}]\n[{'k' * 100_000}]\n"
    (problem,) = parse_spec("models/a.toml", text).problems
    assert len(problem.message) < 400


def test_windows_line_ends_keep_their_lines_and_the_source_stays_as_it_was() -> None:
    text = FLOOD.replace("\n", "\r\n")
    assert read(text).source_text == text
    (problem,) = parse_spec("models/a.toml", "[model]\r\nclass = 1\r\n").errors
    assert (problem.line, problem.column) == (2, 1)


def test_a_schema_takes_its_type_from_the_default() -> None:
    spec = read("[model]\nparameters.x = 3\nparameter_schema.x.unit = 'm'\n")
    assert spec.parameter_schema["x"].type == "number"
    assert spec.parameter_schema["x"].unit == "m"


def test_a_key_of_the_schema_that_is_not_read_is_a_warning() -> None:
    text = "[model]\nclass = 'a'\n[model.parameter_schema.x]\nmin = 1\n"
    (problem,) = parse_spec("models/a.toml", text).problems
    assert (problem.code, problem.line) == ("unknown-schema-key", 4)


NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    st.dates(),
    st.datetimes(),
    st.times(),
)


def toml_of(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml_of(v)}" for k, v in value.items()) + "}"
    return value.isoformat()


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=20,
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(NAMES.map(lambda name: "own_" + name), VALUES, max_size=8))
def test_valid_toml_of_ordinary_shape_is_accepted_as_json(data: dict[str, object]) -> None:
    text = "[model]\nclass = 'a'\n" + "".join(f"{k} = {toml_of(v)}\n" for k, v in data.items())
    expected = json.loads(json.dumps(data, default=lambda value: value.isoformat()))
    assert read(text, "models/a.toml").document["model"] == {"class": "a", **expected}


@settings(deadline=None, max_examples=500)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_no_input_makes_it_raise(text: bytes | str) -> None:
    parsed = parse_spec("models/a.toml", text)
    assert (parsed.spec is None) == bool(parsed.errors)


MODEL_LINES = st.sampled_from(
    [
        "[model]",
        "[[model]]",
        "[model.parameters]",
        "[model.parameter_schema.a]",
        "[model.bands]",
        "model = 1",
        "class = 'a'",
        "name = 2",
        "package = '-'",
        "tags = [1]",
        "a = 1",
        "a = nan",
        "type = 'integer'",
        "minimum = 'x'",
        "minimum = 2",
        "enum = [1, 'a']",
        "parameters = []",
        "bands = {a = []}",
        "land_use_types = {types = 1}",
        "example = 1",
    ]
)


@settings(deadline=None, max_examples=1000)
@given(st.lists(MODEL_LINES, max_size=10))
def test_every_spec_that_is_accepted_can_be_stored_and_merged(lines: list[str]) -> None:
    parsed = parse_spec("models/a.toml", "\n".join(["[model]", *lines]))
    if parsed.spec is not None:
        json.dumps(parsed.spec.document, allow_nan=False).encode()
        assert set(parsed.spec.parameters) <= set(parsed.spec.merged_parameters({}))
