"""Build ``data/grid.zip``, the real data set of this package, from a sample in matplotlib.

    python scripts/build_grid.py [--output data/grid.zip]

Source: ``topobathy.npz``, topography and bathymetry of the Salish Sea and Vancouver Island, which
matplotlib ships among its sample data (added with matplotlib pull request 12419 for the example of
``TwoSlopeNorm``, https://matplotlib.org/stable/users/explain/colors/colormapnorms.html). It holds
``topo (91, 120)``, whole metres, ``latitude (91,)``, degrees north, and ``longitude (120,)``,
degrees east from 0 to 360.

matplotlib states no origin. The samples lie exactly on the 2-arc-minute Mercator grid of Smith and
Sandwell's global topography (longitudes 1/60 + k/30 degrees; version 8.2 is such a grid), which is
therefore the likely origin: W. H. F. Smith and D. T. Sandwell, Global seafloor topography from
satellite altimetry and ship depth soundings, Science 277, 1956-1962, 1997.

Each sample becomes one polygon in EPSG:4326 that reaches half-way to its neighbours: 1/30 degree
wide and 0.0214 to 0.0223 degree high, about 2.4 km both ways. Row 0 is the southernmost and col 0
the westernmost, as in :func:`dissmodel.geo.vector_grid`.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from matplotlib.cbook import get_sample_data

SAMPLE = "topobathy.npz"
SAMPLE_SHA256 = "be6918af6c2b2b023db96c80a80f80757e0ee3a343fcb649c3b14308085e663c"
"""Of the bytes of topo, latitude and longitude, one after the other."""

DECIMALS = 5
"""Of degrees: 1 m, and what float32 holds of a longitude of 234 degrees."""

STORED_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip file can state: the archive depends on its content alone."""

DEFAULT_OUTPUT = Path(__file__).parents[1] / "data" / "grid.zip"

_Floats = npt.NDArray[np.float64]


def build_grid() -> gpd.GeoDataFrame:
    """Cells of the sample as polygons.

    Returns
    -------
    geopandas.GeoDataFrame
        10,920 cells in EPSG:4326, ordered by row, then col, with ``row`` (0 to 90, from the
        south), ``col`` (0 to 119, from the west) and ``elevation`` (metres above sea level).

    Raises
    ------
    ValueError
        When this version of matplotlib ships another sample than the one described here.

    """
    with np.load(get_sample_data(SAMPLE, asfileobj=False)) as sample:
        topography, latitude, longitude = (
            sample[name] for name in ("topo", "latitude", "longitude")
        )
    digest = hashlib.sha256(b"".join(a.tobytes() for a in (topography, latitude, longitude)))
    if digest.hexdigest() != SAMPLE_SHA256:
        raise ValueError(f"{SAMPLE} is not the sample described here: {digest.hexdigest()}")
    south_north = _edges(latitude.astype(float))
    west_east = _edges(longitude.astype(float) - 360)
    row, col = (index.ravel() for index in np.indices(topography.shape, dtype=np.int32))
    return gpd.GeoDataFrame(
        {"row": row, "col": col, "elevation": topography.ravel().astype(float)},
        geometry=shapely.box(
            west_east[col], south_north[row], west_east[col + 1], south_north[row + 1]
        ),
        crs="EPSG:4326",
    )


def write_zip(grid: gpd.GeoDataFrame, output: Path) -> None:
    """Write ``grid`` as a zipped Shapefile that is the same, byte for byte, at every build."""
    with tempfile.TemporaryDirectory() as directory:
        grid.to_file(
            Path(directory) / "grid.shp",
            driver="ESRI Shapefile",
            DBF_DATE_LAST_UPDATE="{}-{:02}-{:02}".format(*STORED_DATE[:3]),
        )
        with zipfile.ZipFile(output, "w") as archive:
            for part in sorted(Path(directory).iterdir()):
                entry = zipfile.ZipInfo(part.name, date_time=STORED_DATE)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, part.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)


def _edges(centres: _Floats) -> _Floats:
    """Limits of cells, half-way between their centres; one more than there are centres."""
    between = (centres[1:] + centres[:-1]) / 2
    first, last = 2 * centres[0] - between[0], 2 * centres[-1] - between[-1]
    return np.round(np.concatenate([[first], between, [last]]), DECIMALS)


def main() -> None:
    """Write the archive and say what it holds."""
    parser = argparse.ArgumentParser(description="Build the grid of the Salish Sea.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    output = parser.parse_args().output
    grid = build_grid()
    output.parent.mkdir(parents=True, exist_ok=True)
    write_zip(grid, output)
    sha256 = hashlib.sha256(output.read_bytes()).hexdigest()
    print(f"{output}: {len(grid)} cells, {output.stat().st_size} bytes, sha256 {sha256}")


if __name__ == "__main__":
    main()
