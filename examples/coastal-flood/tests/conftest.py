"""Grids to flood: made up, and the real one."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

PROJECT = Path(__file__).parents[1]

GridMaker = Callable[..., gpd.GeoDataFrame]

# libpysal and matplotlib make directories in the user's home when they are imported.
_USER_DIRECTORIES = tempfile.TemporaryDirectory(prefix="coastal-flood-tests-")
for _variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
    os.environ[_variable] = _USER_DIRECTORIES.name


def pytest_unconfigure() -> None:
    """Remove those directories."""
    _USER_DIRECTORIES.cleanup()


@pytest.fixture(scope="session")
def project() -> Path:
    """Directory of the package's sources."""
    return PROJECT


@pytest.fixture(scope="session")
def data_zip() -> Path:
    """The real grid that the package ships."""
    return PROJECT / "data" / "grid.zip"


@pytest.fixture(scope="session")
def salish_sea(data_zip: Path) -> gpd.GeoDataFrame:
    """Cells of the real grid, ordered by row and col."""
    return gpd.read_file(data_zip).sort_values(["row", "col"], ignore_index=True)


@pytest.fixture
def make_grid() -> GridMaker:
    """Make cells of 100 m from a table of elevations ``(row, col)``; NaN makes no cell."""

    def make(elevation: object, crs: str | None = "EPSG:31983") -> gpd.GeoDataFrame:
        table = np.asarray(elevation, dtype=float)
        row, col = np.nonzero(~np.isnan(table))
        return gpd.GeoDataFrame(
            {
                "row": row.astype(np.int32),
                "col": col.astype(np.int32),
                "elevation": table[row, col],
            },
            geometry=shapely.box(col * 100, row * 100, (col + 1) * 100, (row + 1) * 100),
            crs=crs,
        )

    return make


@pytest.fixture
def zipped(tmp_path: Path) -> Callable[[gpd.GeoDataFrame], Path]:
    """Write cells as a zipped Shapefile."""

    def write(grid: gpd.GeoDataFrame) -> Path:
        directory = tmp_path / "parts"
        directory.mkdir()
        grid.to_file(directory / "cells.shp", driver="ESRI Shapefile")
        archive = tmp_path / "cells.zip"
        with zipfile.ZipFile(archive, "w") as target:
            for part in directory.iterdir():
                target.write(part, part.name)
        return archive

    return write
