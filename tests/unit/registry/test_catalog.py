"""catalog.yaml gives names to data sets; what cannot be read says where and why."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.registry.catalog import parse_catalog

TEMPLATE = Path(__file__).parents[3] / "dissmodel-configs" / "catalog.yaml"

GOOD = """
version: 1
sources:
  grid:
    driver: shapefile
    args: {urlpath: "s3://dissmodel-inputs/inputs/examples/grid.zip"}
    metadata: {made: 2020-01-31, bbox: [1, 2.5]}
"""


def test_the_templates_catalogue_is_read() -> None:
    parsed = parse_catalog(TEMPLATE.read_bytes())
    assert parsed.problems == ()
    assert parsed.sources is not None
    source = parsed.sources["salish_sea_grid"]
    assert source.uri == "s3://dissmodel-inputs/inputs/examples/grid.zip"
    assert source.metadata["crs"] == "EPSG:4326"


def test_values_are_those_of_json() -> None:
    parsed = parse_catalog(GOOD.encode())
    assert parsed.sources is not None
    assert parsed.sources["grid"].metadata == {"made": "2020-01-31", "bbox": [1, 2.5]}


def test_numbers_to_the_base_of_60_are_text() -> None:
    parsed = parse_catalog((GOOD + "    description: 1:30\n").encode())
    assert parsed.sources is not None
    assert parsed.sources["grid"].description == "1:30"


@pytest.mark.parametrize(
    "value",
    [
        "0x" + "f" * 5000,
        "0b" + "1" * 200_000,
        "1" * 5000,
        "1" * 200_000 + ".0",
        "9223372036854775808",
        "-9223372036854775809",
        "!!int 1:1:1",
        "!!int ''",
        "!!float ''",
        "!!int x",
        "!!bool x",
        "!!timestamp x",
        "2001-99-99",
        ".nan",
        "-.inf",
        '"\\ud800"',
        '"\\0"',
        '{"\\0": 1}',
        "!!set {a}",
        "!!omap [a: 1]",
        "!!binary aGk=",
        "!!binary é",
        "!!python/object:os.system x",
        "!!str [a]",
        "{a: 1, a: 2}",
        "{? [a, b] : 1}",
    ],
    ids=lambda value: value[:20],
)
@pytest.mark.parametrize("key", ["metadata: {x: %s}", "args: {x: %s}", "driver: %s", "made: %s"])
def test_one_bad_source_does_not_hide_the_others(value: str, key: str) -> None:
    parsed = parse_catalog((GOOD + "  broken:\n    " + key % value + "\n").encode())
    assert parsed.sources is not None
    assert list(parsed.sources) == ["grid"]
    (problem,) = parsed.problems
    assert (problem.code, problem.line) == ("invalid-source", 9)
    assert "'broken'" in problem.message
    assert len(problem.message) < 400
    json.dumps(vars(parsed.sources["grid"])).encode()


@pytest.mark.parametrize(
    "names", ["a: {}\n  a: {}", "? [a, b]\n  : 1", "'': 1", '"\\0": 1', "<<: {}"]
)
def test_a_name_that_cannot_be_one_or_is_there_twice_hides_no_other(names: str) -> None:
    parsed = parse_catalog(f"{GOOD}  {names}\n".encode())
    assert list(parsed.sources or ()) == ["grid"]
    assert {problem.code for problem in parsed.problems} == {"invalid-source"}


def test_a_number_of_many_parts_takes_no_time() -> None:
    text = GOOD + "    description: 1" + ":1" * 120_000
    begin = time.process_time()
    assert parse_catalog(text.encode()).problems == ()
    assert parse_catalog(text.replace("1:1", "!!int 1:1", 1).encode()).sources == {}
    assert time.process_time() - begin < 1.5, "PyYAML's own reading takes 3 s for each"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "no-sources"),
        ("sources: [a]", "no-sources"),
        ("sources: {a: &x {driver: d}, b: *x}", "yaml-alias"),
        ("a: b: c", "invalid-yaml"),
        ("\tsources: {}", "invalid-yaml"),
        ("sources: {a: " + "[" * 50 + "]" * 50 + "}", "too-complex"),
        ("sources: {a: [" + "1," * 30_000 + "1]}", "too-complex"),
        ("a: 1\n--- \nb: 2", "invalid-yaml"),
    ],
)
def test_what_cannot_be_read_is_one_problem_of_its_kind(text: str, code: str) -> None:
    parsed = parse_catalog(text.encode())
    assert parsed.sources is None
    assert [problem.code for problem in parsed.problems] == [code]


@pytest.mark.parametrize(
    "args",
    [
        "{}",
        "{urlpath: [a, b]}",
        '{urlpath: "{{ CATALOG_DIR }}/a.tif"}',
        "{urlpath: /etc/passwd}",
        "{urlpath: file:///etc/passwd}",
        '{urlpath: "https://host/a\\nb"}',
    ],
)
def test_an_address_that_is_none_is_refused(args: str) -> None:
    parsed = parse_catalog(f"sources: {{a: {{driver: d, args: {args}}}}}".encode())
    assert parsed.sources == {}
    assert [problem.code for problem in parsed.problems] == ["invalid-source"]


def test_a_fault_says_its_line_and_column() -> None:
    (problem,) = parse_catalog(b"sources:\n  a: [1,\n").problems
    assert problem.line == 3


def test_text_that_is_no_utf8_or_too_large_is_refused() -> None:
    assert parse_catalog(b"\xff").problems[0].code == "not-utf8"
    assert parse_catalog(b"#" * 300_000).problems[0].code == "too-large"


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_nothing_makes_the_parser_raise(content: bytes) -> None:
    parsed = parse_catalog(content)
    json.dumps([vars(source) for source in (parsed.sources or {}).values()]).encode()
    assert parsed.sources is not None or parsed.problems


def test_the_largest_catalogue_takes_little_memory() -> None:
    content = ("sources:\n" + "".join(f"  s{n}: {{driver: d}}\n" for n in range(6000))).encode()
    tracemalloc.start()
    parse_catalog(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 1024**2
