"""What submissions and records say of inputs, and the names that inputs have inside a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.execution.references import (
    InputReference,
    SideFile,
    StagedInput,
    as_read,
    file_name,
)
from dissmodel_platform.types import Sha256

HASHES = [Sha256(digit * 64) for digit in "abc"]


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://dissmodel-inputs/inputs/a/grid.zip", "grid.zip"),
        ("s3://dissmodel-inputs/inputs/a/what?.zip", "what?.zip"),
        ("https://example.org/data/grid.zip?token=1#part", "grid.zip"),
        ("https://example.org/data/", "data"),
        ("https://example.org", "input"),
        ("https://example.org/a/..", "input"),
        ("s3://dissmodel-inputs/inputs/a/.", "input"),
        ("/srv/data/grid.gpkg", "grid.gpkg"),
        ("s3://b/" + "x" * 300 + ".gpkg", "x" * 195 + ".gpkg"),
    ],
)
def test_the_local_name_is_the_last_part_of_the_address(uri: str, name: str) -> None:
    assert file_name(uri) == name


@given(st.sampled_from(["", "s3://bucket/", "https://example.org/"]), st.text(max_size=400))
def test_a_local_name_never_leaves_its_directory(start: str, rest: str) -> None:
    try:
        name = file_name(start + rest)
    except ValueError:  # no address at all, as "https://[": these are refused at submission
        return
    assert name not in ("", ".", "..")
    assert "/" not in name
    assert len(name.encode("utf-8", "replace")) <= 200


@pytest.mark.parametrize(
    "reference",
    [
        InputReference("input_dataset", "https://example.org/grid.zip"),
        InputReference("input_dataset", "https://example.org/grid.zip", None, HASHES[0]),
        InputReference(
            "parameters.roads",
            "s3://dissmodel-inputs/inputs/a/roads.shp",
            HASHES[0],
            side_files=(SideFile(".dbf", "s3://dissmodel-inputs/inputs/a/roads.dbf", HASHES[1]),),
        ),
    ],
)
def test_a_reference_is_what_was_stored(reference: InputReference) -> None:
    assert InputReference.from_json(reference.as_json()) == reference


def test_references_of_earlier_versions_are_read() -> None:
    entry = {"field": "input_dataset", "uri": "s3://b/grid.zip", "sha256": HASHES[0]}
    assert InputReference.from_json(entry) == InputReference(*entry.values())  # type: ignore[arg-type]


def test_a_reproduction_reads_what_the_run_read() -> None:
    asked = InputReference("input_dataset", "https://example.org/g.shp", None, HASHES[0])
    files = [
        StagedInput("input_dataset", asked.uri, Path("g.shp"), HASHES[0], 1),
        StagedInput("input_dataset.dbf", "https://example.org/g.dbf", Path("g.dbf"), HASHES[1], 1,
                    "input_dataset"),
        StagedInput("parameters.table", "https://example.org/t.dbf", Path("t.dbf"), HASHES[2], 1),
    ]  # fmt: skip
    assert as_read(asked, [file.as_json() for file in files]) == InputReference(
        "input_dataset",
        asked.uri,
        HASHES[0],
        side_files=(SideFile(".dbf", "https://example.org/g.dbf", HASHES[1]),),
    )
