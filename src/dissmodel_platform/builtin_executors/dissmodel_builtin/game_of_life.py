"""The executor ``game_of_life``: a raster in, the raster some generations later out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dissmodel.executor import ExperimentRecord, ModelExecutor
from dissmodel.executor.utils import default_output_uri

from dissmodel_builtin.checks import fraction, whole_number

if TYPE_CHECKING:
    from dissmodel.geo.raster.backend import RasterBackend


@dataclass(frozen=True)
class GameOfLifeParameters:
    """Parameters of a run, checked.

    Attributes
    ----------
    end_time : int
        Number of generations, 0 or more.
    rows, columns : int
        Size of the random start, in cells; unused where there is an input.
    density : float
        Probability, 0 to 1, that a cell of the random start is alive; unused with an input.
    seed : int
        Of numpy's default generator, for the random start; unused with an input.

    """

    end_time: int = 100
    rows: int = 64
    columns: int = 64
    density: float = 0.3
    seed: int = 0

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> GameOfLifeParameters:
        """Take the parameters of a record, and the defaults for those that it does not name.

        Raises
        ------
        ValueError
            Naming the parameter, what was given and what is wanted.

        """
        return cls(
            end_time=whole_number(parameters, "end_time", cls.end_time, minimum=0),
            rows=whole_number(parameters, "rows", cls.rows, minimum=1),
            columns=whole_number(parameters, "columns", cls.columns, minimum=1),
            density=fraction(parameters, "density", cls.density),
            seed=whole_number(parameters, "seed", cls.seed, minimum=0),
        )


class GameOfLifeExecutor(ModelExecutor):
    """Conway's Game of Life on a raster whose surroundings are dead.

    **Input**: a GeoTIFF, or a zip file that holds one, of which the first band is read: cells that
    are neither 0 nor NaN are alive (a nodata value has no meaning here: dissmodel does not pass it
    on). Or no input: then the start is random, from ``rows``, ``columns``, ``density``, ``seed``.

    **Result**: a GeoTIFF with one band ``state (y, x)`` of bytes, 1 alive and 0 dead, in the last
    generation, with the CRS and the place of the input.
    """

    name = "game_of_life"
    output_suffix = ".tif"

    # dissmodel_builtin.life brings geopandas, rasterio and libpysal, over a second of imports that
    # `echo` and a look at the parameters can do without: hence the imports inside functions.

    def validate(self, record: ExperimentRecord) -> None:
        """Check the parameters. Raises ValueError."""
        GameOfLifeParameters.of(record.parameters)

    def load(self, record: ExperimentRecord) -> RasterBackend:
        """Read or draw the start; sets ``record.source.checksum`` (SHA-256) where it reads."""
        from dissmodel_builtin import life  # noqa: PLC0415

        if record.source.uri:
            start, record.source.checksum = life.read_start(record.source.uri)
        else:
            parameters = GameOfLifeParameters.of(record.parameters)
            start = life.random_start(
                (parameters.rows, parameters.columns), parameters.density, parameters.seed
            )
        rows, columns = start.shape
        record.add_log(f"Start of {rows} x {columns} cells, {int(start.get('state').sum())} alive")
        return start

    def run(self, data: RasterBackend, record: ExperimentRecord) -> RasterBackend:
        """Live through ``end_time`` generations."""
        from dissmodel_builtin import life  # noqa: PLC0415

        return life.simulate(data, GameOfLifeParameters.of(record.parameters).end_time)

    def save(self, result: RasterBackend, record: ExperimentRecord) -> ExperimentRecord:
        """Write the GeoTIFF to ``record.output_path``, or where dissmodel puts outputs.

        Sets ``output_path``, ``output_sha256`` and the status ``completed``.
        """
        from dissmodel.io import save_dataset  # noqa: PLC0415

        record.output_path = record.output_path or default_output_uri(record.experiment_id, "tif")
        record.output_sha256 = save_dataset(result, record.output_path, fmt="raster")
        record.add_log(f"{int(result.get('state').sum())} alive in the end")
        record.status = "completed"
        return record
