"""What an input grid must hold, checked with sentences that say what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

CANONICAL_COLUMNS = ("row", "col", "elevation")
"""Attributes that the model reads: place of the cell in the grid (integers), metres."""

MAXIMUM_EMPTY_SHARE = 0.99
"""A grid emptier than this is no grid: its row and col hold something else, such as metres."""

_SMALL_EXTENT = 1_000_000


def check_column_map(column_map: Mapping[str, Any]) -> None:
    """Refuse a column map that names unknown attributes, or one column twice.

    Parameters
    ----------
    column_map : mapping of str to str
        Canonical name → name in the data; canonical names left out stand for themselves.

    Raises
    ------
    ValueError
        With a sentence that says what to change.

    """
    unknown = sorted(set(column_map) - set(CANONICAL_COLUMNS))
    if unknown:
        raise ValueError(
            f"column_map names {_listed(unknown)}, which this model does not read; "
            f"it reads {_listed(CANONICAL_COLUMNS)}."
        )
    names = _real_names(column_map)
    if not all(isinstance(name, str) and name for name in names.values()):
        raise ValueError("column_map must give a column's name, as text, for each attribute.")
    if len(set(names.values())) < len(names):
        raise ValueError(
            f"column_map gives one column for two attributes ({names}); "
            "row, col and elevation need a column each."
        )


def canonical_grid(data: pd.DataFrame, column_map: Mapping[str, str]) -> gpd.GeoDataFrame:
    """Check a grid as it was read and bring it into the form that the model works on.

    Parameters
    ----------
    data : pandas.DataFrame
        What was read: one feature per cell, in any order, in any coordinate reference system.
    column_map : mapping of str to str
        Canonical name → name in the data.

    Returns
    -------
    geopandas.GeoDataFrame
        The columns ``row`` and ``col`` (int32), ``elevation`` (float64, metres) and ``geometry``
        and no others, ordered by row, then col; the CRS is that of ``data``.

    Raises
    ------
    ValueError
        Where geometry, CRS, a column or a value is missing or cannot be meant.

    """
    if not isinstance(data, gpd.GeoDataFrame):
        raise ValueError(  # noqa: TRY004 - the data is wrong, not the call
            "The input is a table without geometry; give a vector grid with one polygon per cell."
        )
    if data.empty:
        raise ValueError("The input holds no cells; check that the right layer was exported.")
    if data.crs is None:
        raise ValueError(
            "The input declares no coordinate reference system; assign the one it was made in "
            "(QGIS: Assign projection; geopandas: set_crs) and save it again."
        )
    names = _real_names(column_map)
    missing = [name for name in names.values() if name not in data.columns]
    if missing:
        attributes = [str(c) for c in data.columns if c != data.geometry.name]
        raise ValueError(
            f"The input has no column {_listed(missing)}; it has {_listed(attributes)}. Name the "
            "columns to read: column_map in a request, or --column-map elevation=<column>."
        )
    grid = gpd.GeoDataFrame(
        {
            "row": _place(data[names["row"]], names["row"]),
            "col": _place(data[names["col"]], names["col"]),
            "elevation": _elevation(data[names["elevation"]], names["elevation"]),
        },
        geometry=data.geometry.to_numpy(),
        crs=data.crs,
    )
    _check_layout(grid)
    if not (grid["elevation"] <= 0).any():
        raise ValueError(
            f"No cell lies at or below 0 m (the lowest: {grid['elevation'].min():g}), so there is "
            "no sea to rise; elevations must be metres above sea level, the sea bed included."
        )
    return grid.sort_values(["row", "col"], ignore_index=True)


def _real_names(column_map: Mapping[str, Any]) -> dict[str, Any]:
    return {name: column_map.get(name, name) for name in CANONICAL_COLUMNS}


def _numbers(values: pd.Series, name: str) -> np.ndarray:
    """Finite numbers of a column, or a sentence about those that are not."""
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        raise ValueError(
            f"Column '{name}' holds {values.dtype} values, not numbers; convert it, or name "
            "another column in column_map."
        )
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    unusable = int((~np.isfinite(numbers)).sum())
    if unusable:
        raise ValueError(
            f"Column '{name}' has no value in {unusable} of {len(numbers)} cells; fill them, or "
            "remove those cells (a place without a cell never floods)."
        )
    return numbers


def _place(values: pd.Series, name: str) -> np.ndarray:
    numbers = _numbers(values, name)
    if (numbers != np.round(numbers)).any() or np.abs(numbers).max() > np.iinfo(np.int32).max:
        raise ValueError(
            f"Column '{name}' must hold whole numbers that count the grid's rows or columns."
        )
    return numbers.astype(np.int32)


def _elevation(values: pd.Series, name: str) -> np.ndarray:
    return _numbers(values, name)


def _check_layout(grid: gpd.GeoDataFrame) -> None:
    """One cell per place, and places that make a grid."""
    twice = grid.duplicated(["row", "col"])
    if twice.any():
        first = grid[twice].iloc[0]
        raise ValueError(
            f"{int(twice.sum())} cells share their place with another, the first of them row "
            f"{first['row']}, col {first['col']}; every pair of row and col must occur once."
        )
    rows, columns = (int(grid[c].max()) - int(grid[c].min()) + 1 for c in ("row", "col"))
    extent = rows * columns
    if extent > _SMALL_EXTENT and len(grid) < (1 - MAXIMUM_EMPTY_SHARE) * extent:
        raise ValueError(
            f"row and col span {rows} x {columns} places for {len(grid)} cells; they must number "
            "the rows and columns of one regular grid."
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
