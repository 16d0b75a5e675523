"""catalog.yaml gives names to data sets; what cannot be read says where and why."""

from __future__ import annotations

import json
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


def test_one_bad_source_does_not_hide_the_others() -> None:
    parsed = parse_catalog((GOOD + "  broken:\n    driver: shapefile\n").encode())
    assert parsed.sources is not None
    assert list(parsed.sources) == ["grid"]
    (problem,) = parsed.problems
    assert "'broken'" in problem.message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "no-sources"),
        ("sources: [a]", "no-sources"),
        ("sources: {a: &x {driver: d}, b: *x}", "yaml-alias"),
        ("sources: {a: 1, a: 2}", "invalid-key"),
        ("sources: {? [a, b] : 1}", "invalid-key"),
        ("sources: {a: !!python/object:os.system x}", "invalid-yaml"),
        ("sources: {a: .nan}", "invalid-value"),
        ("sources: {a: !!binary aGk=}", "invalid-value"),
        ("a: b: c", "invalid-yaml"),
        ("\tsources: {}", "invalid-yaml"),
        ("sources: {a: " + "[" * 50 + "]" * 50 + "}", "too-complex"),
        ("sources: {a: [" + "1," * 30_000 + "1]}", "too-complex"),
        ("a: 1\n--- \nb: 2", "invalid-yaml"),
        ("sources: {a: 2020-99-99}", "invalid-yaml"),
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
