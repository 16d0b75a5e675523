"""The model against connected components labelled by scipy, and against cases worked by hand."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
from coastal_flood.flood_model import FloodModel
from dissmodel.core import Environment
from scipy import ndimage

EIGHT_NEIGHBOURS = np.ones((3, 3))
DRY = -1


def flood(grid: gpd.GeoDataFrame, rate: float, end_time: int) -> np.ndarray:
    """Run the model; years as a table (row, col), DRY where the cell is dry or absent."""
    environment = Environment(start_time=0, end_time=end_time)
    model = FloodModel(grid.copy(), rate=rate)
    environment.run()
    table = np.full((grid["row"].max() + 1, grid["col"].max() + 1), DRY)
    table[model.gdf["row"], model.gdf["col"]] = model.gdf["year_flooded"].fillna(DRY)
    return table


def flood_by_labels(elevation: np.ndarray, rate: float, end_time: int) -> np.ndarray:
    """Do the same with no memory: every year, label the low cells and take those joined to the sea.

    ``ndimage.label`` numbers components by their first cell, and ``argmax`` takes the first of
    equals: of two seas of one size, both take the one with the first cell.
    """
    below_zero, _ = ndimage.label(elevation <= 0, structure=EIGHT_NEIGHBOURS)
    sea = below_zero == np.bincount(below_zero[below_zero > 0]).argmax()
    years = np.where(sea, 0, DRY)
    for year in range(1, end_time + 1):
        low, _ = ndimage.label(elevation <= rate * year, structure=EIGHT_NEIGHBOURS)
        joined = np.isin(low, np.unique(low[sea]))
        years[joined & (years == DRY)] = year
    return years


def table_of(grid: gpd.GeoDataFrame) -> np.ndarray:
    table = np.full((grid["row"].max() + 1, grid["col"].max() + 1), np.nan)
    table[grid["row"], grid["col"]] = grid["elevation"]
    return table


@pytest.mark.parametrize(("rate", "end_time"), [(0.5, 10), (0, 5), (0.1, 100), (3.7, 40), (500, 6)])
def test_salish_sea_equals_labelled_components(salish_sea, rate, end_time):
    ours = flood(salish_sea, rate, end_time)
    theirs = flood_by_labels(table_of(salish_sea), rate, end_time)
    np.testing.assert_array_equal(ours, theirs)


def test_default_run_floods_72_cells_of_the_salish_sea(salish_sea):
    years = flood(salish_sea, 0.5, 10)
    assert years.shape == (91, 120)
    assert {y: int((years == y).sum()) for y in np.unique(years)} == {
        DRY: 5998, 0: 4850, 2: 15, 4: 1, 6: 32, 8: 3, 10: 21,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_random_terrain_equals_labelled_components(make_grid, seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(5, 60, size=2))
    noise = random.normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, sigma=random.choice([0.0, 1.0, 3.0]))
    elevation = smooth / np.abs(smooth).max() * 20 + 2
    if seed % 2:
        elevation = np.round(elevation)  # as many elevations as can be equal the sea's level
    if seed % 3 == 0:
        elevation[random.random(shape) < 0.1] = np.nan  # places without a cell
    elevation[0, 0] = elevation[-1, -1] = 0.0  # the corners exist, so tables have the grid's shape
    grid = make_grid(elevation)

    years = flood(grid, 0.75, 25)

    np.testing.assert_array_equal(years, flood_by_labels(elevation, 0.75, 25))
    assert len(np.unique(years)) > 3  # a terrain on which nothing happens would prove nothing


def test_land_behind_a_ridge_stays_dry_until_the_ridge_floods(make_grid):
    grid = make_grid([[-5, 9, 1, 1], [-5, 9, 1, 1]])
    assert flood(grid, 1, 8).tolist() == [[0, -1, -1, -1]] * 2
    assert flood(grid, 1, 9).tolist() == [[0, 9, 9, 9]] * 2


def test_water_passes_between_two_cells_that_touch_at_a_corner(make_grid):
    grid = make_grid([[-1, 9, 9], [9, 1, 9], [9, 9, 1]])
    assert flood(grid, 1, 1).tolist() == [[0, -1, -1], [-1, 1, -1], [-1, -1, 1]]


def test_within_a_year_water_goes_round_every_bend(make_grid):
    channel = [[-1, 2, 2, 2, 2], [9, 9, 9, 9, 2], [2, 2, 2, 2, 2], [2, 9, 9, 9, 9], [2, 2, 2, 2, 2]]
    years = flood(make_grid(channel), 1, 2)
    assert (years[np.array(channel) == 2] == 2).all()


def test_only_the_largest_low_area_is_sea(make_grid):
    grid = make_grid([[-1, -1, -1, 5, -8, -8], [-1, -1, -1, 5, -8, -8]])
    assert flood(grid, 1, 4).tolist() == [[0, 0, 0, -1, -1, -1]] * 2
    assert flood(grid, 1, 5).tolist() == [[0, 0, 0, 5, 5, 5]] * 2


def test_of_two_equal_low_areas_the_first_by_row_and_col_is_sea(make_grid):
    grid = make_grid([[5, 5, 5, -1], [-1, 5, 5, -1], [-1, 5, 5, 5]])
    assert flood(grid, 1, 1).tolist() == [[-1, -1, -1, 0], [-1, -1, -1, 0], [-1, -1, -1, -1]]


def test_a_cell_exactly_at_the_level_floods(make_grid):
    grid = make_grid([[0, 0.5, 0.5000001]])
    assert flood(grid, 0.5, 2).tolist() == [[0, 1, 2]]


def test_a_place_without_a_cell_is_a_wall(make_grid):
    grid = make_grid([[-1, np.nan, 1], [-1, np.nan, 1]])
    assert flood(grid, 1, 3).tolist() == [[0, -1, -1]] * 2


def test_without_low_land_nothing_floods(make_grid):
    assert (flood(make_grid([[1, 2], [3, 4]]), 5, 5) == DRY).all()


def test_numbering_of_rows_and_columns_may_start_anywhere(make_grid):
    grid = make_grid([[-1, 1, 2], [9, 9, 3]])
    moved = grid.assign(row=grid["row"] - 40, col=grid["col"] + 1000)
    environment = Environment(start_time=0, end_time=3)
    model = FloodModel(moved, rate=1)
    environment.run()
    assert model.gdf["year_flooded"].fillna(DRY).tolist() == [0, 1, 2, -1, -1, 3]


def test_the_order_of_cells_does_not_matter(salish_sea):
    shuffled = salish_sea.sample(frac=1, random_state=7)
    assert not (shuffled.index == salish_sea.index).all()
    np.testing.assert_array_equal(flood(shuffled, 0.5, 10), flood(salish_sea, 0.5, 10))


def test_the_column_is_up_to_date_at_the_end_of_every_year(make_grid):
    grid = make_grid([[-1, 1, 2]])

    class Watched(FloodModel):
        seen = ()

        def post_execute(self) -> None:
            super().post_execute()
            state = self.gdf["year_flooded"].fillna(DRY).tolist()
            self.seen += ((self.env.now(), state),)

    environment = Environment(start_time=0, end_time=2)
    model = Watched(grid, rate=1)
    environment.run()
    assert model.seen[1:] == ((0, [0, -1, -1]), (1, [0, 1, -1]), (2, [0, 1, 2]))


def test_the_clock_ends_at_the_last_year(make_grid):
    flood(make_grid([[-1, 1]]), 1, 7)
    clock = Environment._current
    assert (clock.start_time, clock.now(), clock.end_time) == (0, 7, 7)
