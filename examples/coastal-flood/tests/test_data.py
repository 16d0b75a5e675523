"""The data that the package ships is what its script makes of matplotlib's sample."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from types import ModuleType

import geopandas as gpd
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data


@pytest.fixture(scope="module")
def script(project) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_grid", project / "scripts/build_grid.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same_cells(one: gpd.GeoDataFrame, other: gpd.GeoDataFrame) -> None:
    assert one.crs.to_epsg() == other.crs.to_epsg() == 4326
    assert list(one.columns) == list(other.columns) == ["row", "col", "elevation", "geometry"]
    for column in ("row", "col", "elevation"):
        np.testing.assert_array_equal(one[column], other[column])
    assert one.geom_equals(other).all()


def test_shipped_grid_is_what_the_script_builds(script, data_zip):
    shipped = gpd.read_file(io.BytesIO(data_zip.read_bytes()))
    assert_same_cells(shipped, script.build_grid())


def test_script_writes_the_same_bytes_at_every_build(script, tmp_path):
    for name in ("one.zip", "other.zip"):
        script.write_zip(script.build_grid(), tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    assert_same_cells(gpd.read_file(tmp_path / "one.zip"), script.build_grid())


def test_cells_lie_around_the_samples(salish_sea):
    with np.load(get_sample_data("topobathy.npz", asfileobj=False)) as sample:
        topography, latitude, longitude = (sample[n] for n in ("topo", "latitude", "longitude"))
    assert len(salish_sea) == topography.size == 91 * 120
    np.testing.assert_array_equal(
        salish_sea["elevation"], topography[salish_sea["row"], salish_sea["col"]]
    )
    middle = salish_sea.bounds.eval("x = (minx + maxx) / 2\ny = (miny + maxy) / 2")
    np.testing.assert_allclose(middle["x"], longitude[salish_sea["col"]] - 360.0, atol=1e-4)
    np.testing.assert_allclose(middle["y"], latitude[salish_sea["row"]], atol=1e-4)
    assert salish_sea.is_valid.all()


def test_cells_cover_their_extent_once(salish_sea):
    west, south, east, north = salish_sea.total_bounds
    covered = (salish_sea.bounds.maxx - salish_sea.bounds.minx) * (
        salish_sea.bounds.maxy - salish_sea.bounds.miny
    )
    assert covered.sum() == pytest.approx((east - west) * (north - south), rel=1e-9)


def test_archive_is_small_and_holds_nothing_else(data_zip):
    assert data_zip.stat().st_size < 500_000
    with zipfile.ZipFile(data_zip) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [
            f"grid.{e}" for e in ("cpg", "dbf", "prj", "shp", "shx")
        ]
