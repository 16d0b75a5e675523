"""Which files belong to a shapefile."""

from __future__ import annotations

import pytest

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.execution.shapefiles import (
    check_complete,
    local_side_name,
    side_addresses,
    side_addresses_among,
)


@pytest.mark.parametrize(
    ("address", "side"),
    [
        ("s3://dissmodel-inputs/inputs/a/grid.shp", "s3://dissmodel-inputs/inputs/a/grid.dbf"),
        ("s3://b/GRID.SHP", "s3://b/GRID.DBF"),
        ("https://h/a/grid.shp?key=1", "https://h/a/grid.dbf?key=1"),
        ("file:///srv/grid.v2.shp", "file:///srv/grid.v2.dbf"),
        ("/srv/what?.shp", "/srv/what?.dbf"),
    ],
)
def test_side_files_have_the_address_of_the_shp(address: str, side: str) -> None:
    sides = side_addresses(address)
    assert sides[".dbf"] == side
    assert set(sides) == {".shx", ".dbf", ".prj", ".cpg", ".qix", ".sbn", ".sbx"}


@pytest.mark.parametrize(
    "address",
    ["s3://b/grid.zip", "s3://b/shp", "s3://b/.shp", "https://h/x?file=grid.shp", "/srv/a.shp/b"],
)
def test_other_inputs_have_none(address: str) -> None:
    assert side_addresses(address) == {}
    check_complete(address, ())


def test_local_side_files_are_found_in_any_case_and_get_that_of_the_shp() -> None:
    names = [
        "grid.shp",
        "grid.DBF",
        "grid.shx",
        "grid.SHX",
        "GRID.prj",
        "grid.prj.old",
        "other.cpg",
    ]
    found = side_addresses_among("/srv/grid.shp", names)
    assert found == {".shx": "/srv/grid.shx", ".dbf": "/srv/grid.DBF"}
    assert local_side_name("grid.shp", ".dbf") == "grid.dbf"
    assert local_side_name("GRID.SHP", ".dbf") == "GRID.DBF"


def test_what_is_missing_is_named() -> None:
    check_complete("/srv/grid.shp", {".shx", ".dbf"})
    with pytest.raises(InvalidInput, match=r"/srv/grid\.shp has no \.dbf beside it"):
        check_complete("/srv/grid.shp", {".shx", ".prj"})
    with pytest.raises(InvalidInput, match=r"no \.shx and \.dbf"):
        check_complete("/srv/grid.shp", ())
