"""What maps say of themselves is read from any file, and no file hangs or ends the worker."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissmodel_platform.execution.headers import geopackage, reader
from dissmodel_platform.execution.headers.geopackage import describe_geopackage
from dissmodel_platform.execution.headers.geotiff import Unreadable, describe_geotiff
from dissmodel_platform.execution.headers.reader import HeaderReader
from dissmodel_platform.execution.headers.server import BROKEN
from dissmodel_platform.sandbox.enter import landlock_abi
from tests.geotiffs import PLACE, SIZE, TIFF, Tag, tiff

pytestmark = pytest.mark.anyio


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def raster(directory: Path, content: bytes) -> dict[str, Any]:
    (directory / "a.tif").write_bytes(content)
    with opened(directory / "a.tif") as descriptor:
        return describe_geotiff(descriptor)


def vector(path: Path) -> dict[str, Any]:
    with opened(path) as descriptor:
        return describe_geopackage(descriptor)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_a_geotiff_has_crs_extent_size_and_bands(tmp_path: Path, order: str, big: bool) -> None:
    assert raster(tmp_path, tiff(*SIZE, *PLACE, order=order, big=big)) == {
        "format": "GeoTIFF",
        "crs": "EPSG:31983",
        "extent": [500_000.0, 7_399_960.0, 500_090.0, 7_400_000.0],
        "width": 3,
        "height": 2,
        "count": 2,
        "bands": [
            {"name": None, "dtype": "int16", "nodata": -9999},
            {"name": "uso & solo", "dtype": "int16", "nodata": -9999},
        ],
    }


def test_a_picture_without_a_place_has_neither_crs_nor_extent(tmp_path: Path) -> None:
    found = raster(tmp_path, tiff(*SIZE))
    assert (found["crs"], found["extent"], found["bands"][0]["nodata"]) == (None, None, None)


def test_a_turned_raster_has_the_extent_of_its_corners(tmp_path: Path) -> None:
    matrix = (0.0, 1.0, 0.0, 10.0, 1.0, 0.0, 0.0, 20.0, *([0.0] * 8))
    found = raster(tmp_path, tiff(*SIZE, (34264, "d", matrix)))
    assert found["extent"] == [10.0, 20.0, 12.0, 23.0]


def test_cells_that_are_points_reach_half_a_cell_further(tmp_path: Path) -> None:
    keys: Tag = (34735, "H", (1, 1, 0, 1, 1025, 0, 1, 2))
    found = raster(tmp_path, tiff(*SIZE, *PLACE[:2], keys))
    assert found["extent"] == [499_985.0, 7_399_970.0, 500_075.0, 7_400_010.0]


def test_a_crs_without_a_number_goes_by_its_name(tmp_path: Path) -> None:
    keys: Tag = (34735, "H", (1, 1, 0, 3, 1024, 0, 1, 1, 1026, 34737, 15, 0, 3072, 0, 1, 32767))
    found = raster(tmp_path, tiff(*SIZE, keys, (34737, "s", (b"Albers, Brazil|\0",))))
    assert found["crs"] == "Albers, Brazil"


@pytest.mark.parametrize(("text", "nodata"), [(b"nan\0", "nan"), (b"", None), (b"x\0", "x")])
def test_a_nodata_value_that_json_has_not_is_a_text(
    tmp_path: Path, text: bytes, nodata: object
) -> None:
    found = raster(tmp_path, tiff(*SIZE, (42113, "s", (text,))))
    assert found["bands"][0]["nodata"] == nodata


FORGED = {
    "no tiff": b"PK\3\4" + bytes(50),
    "empty": b"",
    "cut": TIFF[:60],
    "no end of tags": TIFF[:8] + b"\xff\xff" + bytes(70_000 * 12),
    "far away": b"II*\0\xff\xff\xff\xff",
    "far away, big": b"II+\0\10\0\0\0" + b"\xff" * 8,
    "a tag of 4 GB": tiff(*SIZE, (42112, "s", (b"x" * 9,))).replace(
        struct.pack("<HHI", 42112, 2, 9), struct.pack("<HHI", 42112, 2, 2**32 - 1)
    ),
    "no cells": tiff((256, "H", (0,)), (257, "H", (0,))),
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED.keys())
def test_a_forged_geotiff_is_unreadable(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Unreadable):
        raster(tmp_path, content)


def test_a_raster_of_very_many_bands_lists_the_first(tmp_path: Path) -> None:
    found = raster(tmp_path, tiff(SIZE[0], SIZE[1], (277, "H", (60_000,))))
    assert (found["count"], len(found["bands"])) == (60_000, 256)


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, len(TIFF)))
def test_no_bytes_do_more_than_not_being_readable(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    content = TIFF[:at] + noise + TIFF[at + len(noise) :]
    with suppress(*BROKEN):  # what the process answers with a reason
        raster(tmp_path_factory.getbasetemp(), content)


CONTENTS = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT, srs_id INTEGER PRIMARY KEY, organization TEXT,
  organization_coordsys_id INTEGER, definition TEXT);
INSERT INTO gpkg_spatial_ref_sys VALUES ('SIRGAS', 31983, 'EPSG', 31983, '');
INSERT INTO gpkg_spatial_ref_sys VALUES ('undefined', -1, 'NONE', -1, '');
CREATE TABLE gpkg_contents (table_name TEXT PRIMARY KEY, data_type TEXT, min_x REAL, min_y REAL,
  max_x REAL, max_y REAL, srs_id INTEGER);
CREATE TABLE gpkg_geometry_columns (table_name TEXT, geometry_type_name TEXT);
"""
FLOOD = """
INSERT INTO gpkg_contents VALUES ('flood"1', 'features', 0, 1, 2.5, 3, 31983);
INSERT INTO gpkg_geometry_columns VALUES ('flood"1', 'POLYGON');
CREATE TABLE "flood""1" (fid INTEGER PRIMARY KEY, geom BLOB);
INSERT INTO "flood""1" VALUES (1, x''), (2, x'');
"""
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"


def database(path: Path, script: str) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def test_a_geopackage_has_crs_extent_and_the_features_of_each_layer(tmp_path: Path) -> None:
    path = database(tmp_path / "a.gpkg", CONTENTS + FLOOD)
    before = sorted(file.name for file in tmp_path.iterdir())
    assert vector(path) == {
        "format": "GeoPackage",
        "crs": "EPSG:31983",
        "extent": [0.0, 1.0, 2.5, 3.0],
        "layers": [
            {
                "name": 'flood"1',
                "kind": "features",
                "crs": "EPSG:31983",
                "extent": [0.0, 1.0, 2.5, 3.0],
                "geometry_type": "POLYGON",
                "features": 2,
            }
        ],
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_layers_in_two_crs_have_no_extent_in_common(tmp_path: Path) -> None:
    other = "INSERT INTO gpkg_contents VALUES ('b', 'features', NULL, 1, 1, 1, -1);"
    found = vector(database(tmp_path / "a.gpkg", CONTENTS + FLOOD + other))
    assert (found["crs"], found["extent"]) == (None, None)
    assert found["layers"][0]["name"] == "b"
    assert (found["layers"][0]["crs"], found["layers"][0]["features"]) == (None, None)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE t (a)",
        f"CREATE VIEW gpkg_contents AS {ENDLESS}; CREATE TABLE gpkg_spatial_ref_sys (a)",
        CONTENTS + "DROP TABLE gpkg_contents; CREATE TABLE gpkg_contents (table_name TEXT)",
    ],
)
def test_a_database_that_is_no_geopackage_is_unreadable(tmp_path: Path, script: str) -> None:
    with pytest.raises(Unreadable):
        vector(database(tmp_path / "a.gpkg", script))


def test_a_layer_that_is_a_view_without_end_is_not_counted(tmp_path: Path) -> None:
    script = CONTENTS + f"CREATE VIEW v AS {ENDLESS};"
    script += "INSERT INTO gpkg_contents VALUES ('v', 'features', 0, 0, 1, 1, 31983);"
    assert vector(database(tmp_path / "a.gpkg", script))["layers"][0]["features"] is None


def test_counting_ends_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = CONTENTS + "CREATE TABLE big (a);"
    script += "INSERT INTO gpkg_contents VALUES ('big', 'features', 0, 0, 1, 1, 31983);"
    script += "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 200000)"
    script += " INSERT INTO big SELECT x FROM n;"
    path = database(tmp_path / "a.gpkg", script)
    assert vector(path)["layers"][0]["features"] == 200_000
    count = geopackage._count
    monkeypatch.setattr(geopackage, "SECONDS", 0.2)
    monkeypatch.setattr(geopackage, "_STEPS", 1)

    def late(*arguments: Any) -> int | None:
        time.sleep(0.3)
        return count(*arguments)

    monkeypatch.setattr(geopackage, "_count", late)
    assert vector(path)["layers"][0]["features"] is None


def test_a_file_that_its_name_means_no_more_is_not_read(tmp_path: Path) -> None:
    path = database(tmp_path / "a.gpkg", CONTENTS + FLOOD)
    with opened(path) as descriptor:
        path.unlink()
        with pytest.raises(Unreadable):
            describe_geopackage(descriptor)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(16, 40_000))
def test_a_damaged_geopackage_raises_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    base = tmp_path_factory.getbasetemp() / "whole.gpkg"
    if not base.exists():
        database(base, CONTENTS + FLOOD)
    content = base.read_bytes()
    at %= len(content)
    damaged = base.with_name("damaged.gpkg")
    damaged.write_bytes(content[:at] + noise + content[at + len(noise) :])
    with suppress(*BROKEN):
        vector(damaged)


@pytest.fixture
async def headers(tmp_path: Path) -> AsyncIterator[HeaderReader]:
    opened_reader = HeaderReader(tmp_path)
    yield opened_reader
    await opened_reader.close()


async def read(headers: HeaderReader, path: Path) -> dict[str, Any]:
    with opened(path) as descriptor:
        return await headers.read(descriptor, path.name)


def pid_of(headers: HeaderReader) -> int:
    assert headers._process is not None
    return headers._process.pid


async def test_one_process_reads_one_file_after_the_other(
    headers: HeaderReader, tmp_path: Path
) -> None:
    (tmp_path / "a.tif").write_bytes(TIFF)
    database(tmp_path / "a.gpkg", CONTENTS + FLOOD)
    await read(headers, tmp_path / "a.tif")
    pid = pid_of(headers)
    found = await asyncio.gather(
        *(read(headers, tmp_path / name) for name in ("a.tif", "a.gpkg") * 5)
    )
    assert [entry["format"] for entry in found] == ["GeoTIFF", "GeoPackage"] * 5
    assert pid_of(headers) == pid


async def test_after_a_broken_file_another_process_reads_on(
    headers: HeaderReader, tmp_path: Path
) -> None:
    (tmp_path / "a.tif").write_bytes(TIFF)
    (tmp_path / "b.tif").write_bytes(b"II*\0raster")
    await read(headers, tmp_path / "a.tif")
    pid = pid_of(headers)
    with pytest.raises(ValueError, match="ends too soon"):
        await read(headers, tmp_path / "b.tif")
    assert not Path(f"/proc/{pid}").exists()
    assert (await read(headers, tmp_path / "a.tif"))["width"] == 3


async def test_a_process_that_is_killed_or_does_not_answer_costs_one_description(
    headers: HeaderReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tif").write_bytes(TIFF)
    await read(headers, tmp_path / "a.tif")
    os.kill(pid_of(headers), 9)
    with pytest.raises(ValueError, match="ended the process"):
        await read(headers, tmp_path / "a.tif")
    await read(headers, tmp_path / "a.tif")
    pid = pid_of(headers)
    os.kill(pid, 19)  # SIGSTOP
    monkeypatch.setattr(reader, "SECONDS", 0.3)
    with pytest.raises(ValueError, match=r"longer than 0\.3 s"):
        await read(headers, tmp_path / "a.tif")
    assert not Path(f"/proc/{pid}").exists()
    monkeypatch.undo()
    assert (await read(headers, tmp_path / "a.tif"))["width"] == 3


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
async def test_the_reading_process_opens_nothing_by_name_beyond_the_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    headers = HeaderReader(tmp_path / "runs")
    try:
        inside = database(tmp_path / "runs" / "a.gpkg", CONTENTS + FLOOD)
        assert (await read(headers, inside))["format"] == "GeoPackage"
        outside = database(tmp_path / "a.gpkg", CONTENTS + FLOOD)
        with pytest.raises(ValueError, match="unable to open"):
            await read(headers, outside)
    finally:
        await headers.close()


def test_the_reading_process_needs_the_standard_library_only() -> None:
    root = Path(reader.__file__).parents[3]
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r});"
        "import dissmodel_platform.execution.headers.server;"
        "files = [getattr(m, '__file__', '') or '' for m in list(sys.modules.values())];"
        "print([file for file in files if 'site-packages' in file])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
