"""What an input grid must hold, and the sentence for each way in which it does not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from coastal_flood.grid import canonical_grid


@pytest.fixture
def grid(make_grid):
    return make_grid([[-1, 1], [2, 3]])


def assert_refused(grid, sentence, column_map=None):
    with pytest.raises(ValueError, match=sentence):
        canonical_grid(grid, column_map or {})


def test_cells_are_ordered_and_other_columns_dropped(grid):
    shuffled = grid.iloc[[2, 0, 3, 1]].assign(name="x")
    result = canonical_grid(shuffled, {})
    assert list(result.columns) == ["row", "col", "elevation", "geometry"]
    assert result["elevation"].tolist() == [-1, 1, 2, 3]
    assert result.geometry.bounds["miny"].tolist() == [0, 0, 100, 100]
    assert result.crs == grid.crs


def test_whole_numbers_stored_as_floats_are_places(grid):
    result = canonical_grid(grid.astype({"row": float, "col": "Float64"}), {})
    assert (result["row"].dtype, result["col"].dtype) == (np.int32, np.int32)


def test_no_geometry(grid):
    assert_refused(pd.DataFrame(grid.drop(columns="geometry")), "table without geometry")


def test_no_cells(grid):
    assert_refused(grid.iloc[:0], "holds no cells")


def test_no_crs(make_grid):
    assert_refused(make_grid([[-1, 1]], crs=None), "declares no coordinate reference system")


def test_missing_column_names_those_that_there_are(grid):
    assert_refused(
        grid.rename(columns={"elevation": "altitude"}),
        "no column 'elevation'; it has 'row', 'col', 'altitude'.*--column-map elevation=",
    )


def test_missing_mapped_column(grid):
    assert_refused(grid, "no column 'alt'", {"elevation": "alt"})


def test_text_elevation(grid):
    assert_refused(grid.astype({"elevation": str}), "'elevation' holds .* values, not numbers")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_elevation(grid, value):
    grid.loc[2, "elevation"] = value
    assert_refused(grid, "'elevation' has no value in 1 of 4 cells")


def test_fractional_place(grid):
    assert_refused(grid.assign(row=grid["row"] + 0.5), "'row' must hold whole numbers")


def test_place_beyond_32_bits(grid):
    assert_refused(grid.assign(col=grid["col"] + 2.0**40), "'col' must hold whole numbers")


def test_two_cells_in_one_place(grid):
    assert_refused(
        pd.concat([grid, grid.iloc[[3]]], ignore_index=True),
        "1 cells share their place with another, the first of them row 1, col 1",
    )


def test_metres_in_place_of_row_numbers(grid):
    grid["row"] *= 7_500_000
    assert_refused(grid, "row and col span 7500001 x 2 places for 4 cells")


def test_no_sea(make_grid):
    assert_refused(make_grid([[0.5, 1]]), r"No cell lies at or below 0 m \(the lowest: 0.5\)")
