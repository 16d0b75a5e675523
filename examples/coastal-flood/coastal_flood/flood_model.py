"""The model: the sea rises year by year and floods the low land that it can reach.

The sea stands at ``rate * year`` metres. A dry cell floods in the first year in which its
elevation is at or below the sea and one of its eight neighbours is flooded; within a year flooding
spreads until nothing changes. Low land behind a ridge that the sea does not pass stays dry, which
is what sets this apart from colouring all cells below a contour (the "bathtub with connectivity"
of Poulter and Halpin, 2008, https://doi.org/10.1080/13658810701371858, with eight neighbours).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from dissmodel.geo.vector.spatial_model import SpatialModel
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

YEAR_FLOODED = "year_flooded"
"""Column of the result: 0 for the initial sea, 1 … n for land, NULL for land that stays dry."""

_DRY = -1
"""Inside the model only; the column says NULL."""

_Cells = npt.NDArray[np.intp]
_Mask = npt.NDArray[np.bool_]


class FloodModel(SpatialModel):
    """Land flooded by a sea that rises at a constant rate.

    Lives in a :class:`dissmodel.core.Environment` whose clock counts years from 0: each tick is
    one year, and ``end_time`` is the last year simulated.

    Parameters
    ----------
    gdf : geopandas.GeoDataFrame
        One feature per cell, in any order, with the columns ``row`` and ``col`` (integers: the
        cell's place in a regular grid; two cells are neighbours when neither differs by more than
        one) and ``elevation`` (metres above the sea level of year 0). No two cells in one place;
        a place without a cell, or without an elevation, never floods. Receives the column
        ``year_flooded`` (nullable integer, years), brought up to date at the end of every year.
    rate : float
        Rise of the sea in metres per year.

    Notes
    -----
    Each year costs time in proportion to the length of the shore and the number of cells that
    flood, not to the size of the grid: only dry neighbours of flooded cells are looked at.

    """

    def setup(self, rate: float) -> None:
        """Lay the cells out as a grid and find the initial sea (see :func:`initial_sea`)."""
        self.rate = float(rate)
        row, column = (_from_zero(self.gdf[name]) for name in ("row", "col"))
        # One empty line of cells all round: every cell has eight neighbours, with no edge cases.
        width = int(column.max()) + 3
        height = int(row.max()) + 3
        self._cell: _Cells = (row + 1) * width + column + 1  # place of each feature in the grid
        self._elevation = np.full(height * width, np.nan)
        self._elevation[self._cell] = self.gdf["elevation"].to_numpy(dtype=float)
        self._neighbours = np.array(
            [-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1], dtype=np.intp
        )
        sea = initial_sea(self._elevation, width)
        self._is_dry: _Mask = ~np.isnan(self._elevation)
        self._is_dry[sea] = False
        self._year = np.full(height * width, _DRY, dtype=np.int32)
        self._year[sea] = 0
        self._shore = self._dry_neighbours(sea)
        self.post_execute()

    def execute(self) -> None:
        """Raise the sea to this year's level and flood what it reaches."""
        year = int(self.env.now())
        level = self.rate * year
        shores = [self._shore]
        flooding = self._shore[self._elevation[self._shore] <= level]
        while flooding.size:
            self._is_dry[flooding] = False
            self._year[flooding] = year
            reached = self._dry_neighbours(flooding)
            shores.append(reached)
            flooding = reached[self._elevation[reached] <= level]
        shore = np.unique(np.concatenate(shores))
        self._shore = shore[self._is_dry[shore]]

    def post_execute(self) -> None:
        """Write the state of this year into ``gdf["year_flooded"]``."""
        year = self._year[self._cell]
        self.gdf[YEAR_FLOODED] = pd.arrays.IntegerArray(year, mask=year == _DRY)

    def _dry_neighbours(self, cells: _Cells) -> _Cells:
        """Dry cells that touch one of ``cells``, each once, in grid order."""
        touched = np.unique(cells[:, np.newaxis] + self._neighbours)
        return touched[self._is_dry[touched]]


def initial_sea(elevation: npt.NDArray[np.float64], width: int) -> _Cells:
    """Largest group of cells at or below 0 m that hang together by their eight neighbours.

    Smaller groups are depressions and lakes: they start dry, and flood when the sea reaches them.
    Of two groups of one size, the sea is the one that holds the first cell in grid order.

    Parameters
    ----------
    elevation : numpy.ndarray of float
        Flattened grid ``(row * width + col,)`` in metres, NaN where there is no cell; its first
        and last row and column must be empty.
    width : int
        Number of columns of the grid, the empty ones included.

    Returns
    -------
    numpy.ndarray of int
        Places of the sea's cells in the flattened grid, ascending; empty where no cell is at or
        below 0 m.

    """
    is_low = elevation <= 0
    low = np.flatnonzero(is_low)
    if not low.size:
        return low
    number = np.cumsum(is_low) - 1
    pairs = []
    for step in (1, width - 1, width, width + 1):  # half of the neighbours: each pair once
        first = low[is_low[low + step]]
        pairs.append(np.stack([number[first], number[first + step]]))
    one, other = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(one.size, dtype=np.int8), (one, other)), shape=(low.size,) * 2)
    _, group = connected_components(graph, directed=False)
    _, first_cell, size = np.unique(group, return_index=True, return_counts=True)
    largest = np.lexsort((first_cell, -size))[0]
    sea: _Cells = low[group == largest]
    return sea


def _from_zero(index: pd.Series) -> _Cells:
    """Row or column numbers, shifted so that the least is 0."""
    values: _Cells = index.to_numpy(dtype=np.intp)
    return values - values.min()
