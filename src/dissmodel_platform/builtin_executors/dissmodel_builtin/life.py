"""Conway's Game of Life as a raster cellular automaton of dissmodel, and its starts.

M. Gardner, The fantastic combinations of John Conway's new solitaire game "life", Scientific
American 223(4), 120-123, 1970.
"""

from __future__ import annotations

import math
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from dissmodel.core import Environment
from dissmodel.geo.raster.backend import RasterBackend
from dissmodel.geo.raster.cellular_automaton import RasterCellularAutomaton
from dissmodel.io import load_dataset
from rasterio.errors import RasterioIOError

STATE = "state"


class GameOfLife(RasterCellularAutomaton):
    """One generation per tick, on the array ``state (y, x)`` of the backend, 1 alive and 0 dead.

    Each cell has eight neighbours; beyond the raster all is dead.
    """

    def rule(self, arrays: dict[str, npt.NDArray[np.uint8]]) -> dict[str, npt.NDArray[np.uint8]]:
        """Alive next: three living neighbours, or two and alive now."""
        alive = arrays[STATE] == 1
        neighbours = self.backend.focal_sum_mask(alive)
        return {STATE: ((neighbours == 3) | (alive & (neighbours == 2))).astype(np.uint8)}


def simulate(start: RasterBackend, generations: int) -> RasterBackend:
    """State after some generations; ``start`` is left as it is.

    The clock of the :class:`~dissmodel.core.Environment` shows the generation, 0 being the start.
    """
    result = RasterBackend(shape=start.shape, transform=start.transform, crs=start.crs)
    result.set(STATE, start.get(STATE))
    environment = Environment(start_time=0, end_time=generations)
    GameOfLife(backend=result, start_time=1)
    environment.run()
    return result


def random_start(shape: tuple[int, int], density: float, seed: int) -> RasterBackend:
    """Cells alive with probability ``density``, on a raster ``(y, x)`` without a CRS."""
    start = RasterBackend(shape=shape)
    start.set(STATE, (np.random.default_rng(seed).random(shape) < density).astype(np.uint8))
    return start


def read_start(uri: str) -> tuple[RasterBackend, str]:
    """Read the first band of a GeoTIFF: cells that are neither 0 nor NaN are alive.

    Returns
    -------
    tuple of RasterBackend and str
        The start, with CRS and transform of the file, and the file's SHA-256 in hexadecimal.

    Raises
    ------
    ValueError
        When the file is no raster.

    """
    try:
        # As float64 every value stays itself or NaN; NaN, for dissmodel, is no band left unwritten.
        (read, _), checksum = load_dataset(
            uri, fmt="raster", band_spec=[(STATE, "float64", math.nan)]
        )
    except (RasterioIOError, BadZipFile, StopIteration) as error:  # the last: no .tif in a zip
        name = uri.rsplit("/", 1)[-1]
        raise ValueError(
            f"{name} cannot be read as a raster; give a GeoTIFF, or a zip file that holds one "
            "whose name ends in .tif."
        ) from error
    start = RasterBackend(shape=read.shape, transform=read.transform, crs=read.crs)
    start.set(STATE, (np.nan_to_num(read.get(STATE), nan=0.0) != 0).astype(np.uint8))
    return start, checksum
