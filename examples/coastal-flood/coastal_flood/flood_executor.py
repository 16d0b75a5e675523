"""The executor ``flood_vector``: from a vector grid to the year in which each cell floods.

Run it without any platform::

    python -m coastal_flood.flood_executor run --input data/grid.zip
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
from dissmodel.core import Environment
from dissmodel.executor import ExperimentRecord, ModelExecutor
from dissmodel.executor.utils import default_output_uri
from dissmodel.io import load_dataset, save_dataset

from coastal_flood.flood_model import YEAR_FLOODED, FloodModel
from coastal_flood.grid import canonical_grid, check_column_map

LAYER = "flood"
"""Name of the layer in the resulting GeoPackage."""

LAST_YEAR = 2**31 - 1
"""Years are stored in 32 bits."""


@dataclass(frozen=True)
class FloodParameters:
    """Parameters of a run, checked.

    Attributes
    ----------
    taxa_elevacao : float
        Rate of sea-level rise in metres per year, finite and not negative.
    end_time : int
        Last year simulated; year 0 is the initial state.

    """

    taxa_elevacao: float = 0.5
    end_time: int = 10

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> FloodParameters:
        """Take the parameters of a record, and the defaults for those that it does not name.

        Keys that are not the model's own are left alone: a record's parameters may hold other
        data out of the registry's file.

        Raises
        ------
        ValueError
            Naming the parameter, what was given and what is wanted.

        """
        rate = parameters.get("taxa_elevacao", cls.taxa_elevacao)
        if not _is_number(rate) or not 0 <= rate <= sys.float_info.max:
            raise ValueError(
                f"taxa_elevacao is {rate!r}; it must be a number of metres per year, 0 or more."
            )
        years = parameters.get("end_time", cls.end_time)
        if not _is_number(years) or not 0 <= years <= LAST_YEAR or years != int(years):
            raise ValueError(
                f"end_time is {years!r}; it must be a whole number of years, 0 to {LAST_YEAR}."
            )
        return cls(taxa_elevacao=float(rate), end_time=int(years))


class FloodVectorExecutor(ModelExecutor):
    """Flooding of a vector grid by a sea that rises at a constant rate.

    **Input**: any file with one polygon layer that geopandas reads (a zipped Shapefile, a
    GeoPackage, GeoJSON), in any CRS, with the attributes ``row``, ``col`` (whole numbers) and
    ``elevation`` (metres above the sea level of year 0, the sea bed included); a record's
    ``column_map`` may give other names for them. The order of the features does not matter.

    **Result**: a GeoPackage, layer ``flood``, in the CRS of the input: the input's cells ordered
    by row and col, with ``row``, ``col``, ``elevation`` and ``year_flooded``: 0 for the initial
    sea, the year of flooding for land, NULL for land still dry after ``end_time`` years.

    Two runs write the same bytes when the environment sets ``OGR_CURRENT_DATE``; a GeoPackage
    holds the time of writing otherwise.
    """

    name = "flood_vector"
    output_suffix = ".gpkg"

    def validate(self, record: ExperimentRecord) -> None:
        """Check parameters and column map; reads no data. Raises ValueError."""
        FloodParameters.of(record.parameters)
        check_column_map(record.column_map)

    def load(self, record: ExperimentRecord) -> gpd.GeoDataFrame:
        """Read and check the grid; sets ``record.source.checksum`` (SHA-256 of the file).

        Returns
        -------
        geopandas.GeoDataFrame
            As :func:`coastal_flood.grid.canonical_grid` gives it.

        """
        uri = record.source.uri
        if not uri:
            raise ValueError(
                "There is no input; give a vector grid, such as --input data/grid.zip."
            )
        try:
            data, checksum = load_dataset(uri, fmt="vector")
        except RuntimeError as error:  # pyogrio's errors; a file that is missing is an OSError
            raise ValueError(
                f"{Path(uri).name} cannot be read as vector data; give a zipped Shapefile, a "
                "GeoPackage or a GeoJSON file."
            ) from error
        record.source.checksum = checksum
        grid = canonical_grid(data, record.column_map)
        record.add_log(f"Read {len(grid)} cells, {grid.crs.to_string()}")
        return grid

    def run(self, data: gpd.GeoDataFrame, record: ExperimentRecord) -> gpd.GeoDataFrame:
        """Simulate years 0 to ``end_time``; returns ``data`` with the column ``year_flooded``."""
        parameters = FloodParameters.of(record.parameters)
        environment = Environment(start_time=0, end_time=parameters.end_time)
        model = FloodModel(data.copy(), rate=parameters.taxa_elevacao)
        environment.run()
        return model.gdf

    def save(self, result: gpd.GeoDataFrame, record: ExperimentRecord) -> ExperimentRecord:
        """Write the GeoPackage to ``record.output_path``, or where dissmodel puts outputs.

        Sets ``output_path``, ``output_sha256`` and the status ``completed``.
        """
        uri = record.output_path or default_output_uri(record.experiment_id, "gpkg")
        if "://" not in uri:
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        columns = ["row", "col", "elevation", YEAR_FLOODED, "geometry"]
        record.output_sha256 = save_dataset(result[columns], uri, fmt="vector", layer=LAYER)
        record.output_path = uri
        years = result[YEAR_FLOODED]
        record.add_log(
            f"Sea {(years == 0).sum()} cells, flooded {(years > 0).sum()}, dry {years.isna().sum()}"
        )
        record.status = "completed"
        return record


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


if __name__ == "__main__":
    from dissmodel.executor.cli import run_cli

    run_cli(FloodVectorExecutor)
