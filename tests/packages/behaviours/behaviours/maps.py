"""Models whose results are maps: a raster with a clock, and a layer of cells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from dissmodel.core import Environment, Model
from dissmodel.executor import ExperimentRecord, ModelExecutor


class Diffusion(Model):
    """Moves a share of each cell to its neighbours once a year."""

    def __init__(self, cells: Any, share: float) -> None:
        super().__init__()
        self.cells = cells
        self.share = share

    def execute(self) -> None:
        around = sum(np.roll(self.cells, step, axis) for step in (-1, 1) for axis in (0, 1)) / 4
        self.cells = (1 - self.share) * self.cells + self.share * around


class RasterDiffusion(ModelExecutor):
    """Spreads heights over a raster for `end_time` years, and writes `result.tif`.

    `vary` spoils the reproduction: `bytes` leaves the cells as they are, `cells` changes three.
    """

    name = "raster-diffusion"
    output_suffix = ".tif"

    def load(self, record: ExperimentRecord) -> Any:
        from dissmodel.io import load_dataset

        data, _ = load_dataset(record.source.uri, fmt="raster")
        return data

    def run(self, data: Any, record: ExperimentRecord) -> Any:
        backend, meta = data
        environment = Environment(start_time=0, end_time=record.parameters.get("end_time", 5))
        model = Diffusion(cells=backend.arrays["height"], share=record.parameters["share"])
        environment.run()
        backend.arrays["height"] = model.cells
        if record.parameters.get("vary") == "cells":
            model.cells[0, :3] += 1 + int.from_bytes(os.urandom(4), "big")
        return backend, meta

    def save(self, result: Any, record: ExperimentRecord) -> ExperimentRecord:
        import rasterio
        from dissmodel.io import save_dataset

        record.output_path = record.output_path or "result.tif"
        record.output_sha256 = save_dataset(result, record.output_path, fmt="raster")
        if record.parameters.get("vary") == "bytes":
            with rasterio.open(record.output_path, "r+") as dataset:
                dataset.update_tags(note=os.urandom(8).hex())
        record.status = "completed"
        return record


class VectorCells(ModelExecutor):
    """Writes twelve cells to `result.gpkg`.

    `vary` spoils the reproduction: `bytes` gives the layer another name and the cells another
    order, `features` changes two values.
    """

    name = "vector-cells"
    output_suffix = ".gpkg"

    def load(self, record: ExperimentRecord) -> Any:
        return None

    def run(self, data: Any, record: ExperimentRecord) -> Any:
        import geopandas
        from shapely.geometry import box

        cells = geopandas.GeoDataFrame(
            {"use": ["forest", None, "water"] * 4, "height": np.arange(12) / 7},
            geometry=[box(n % 4, n // 4, n % 4 + 1, n // 4 + 1) for n in range(12)],
            crs="EPSG:31983",
        )
        if record.parameters.get("vary") == "features":
            cells.loc[:1, "height"] += int.from_bytes(os.urandom(4), "big")
        elif record.parameters.get("vary") == "bytes":
            cells = cells.sample(frac=1, random_state=int.from_bytes(os.urandom(4), "big"))
        return cells

    def save(self, result: Any, record: ExperimentRecord) -> ExperimentRecord:
        from dissmodel.io import save_dataset

        varies = record.parameters.get("vary") == "bytes"
        layer = f"cells_{os.urandom(4).hex()}" if varies else "cells"
        record.output_path = "result.gpkg"
        save_dataset(result, record.output_path, fmt="vector", layer=layer)
        Path("notes.txt").write_text("twelve cells")
        record.status = "completed"
        return record


if __name__ == "__main__":
    from dissmodel.executor.cli import run_cli

    run_cli(RasterDiffusion)
