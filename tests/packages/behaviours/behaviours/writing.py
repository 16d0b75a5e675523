"""Models that write in all the ways that models write, and to all the wrong places."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dissmodel.executor import ExperimentRecord
from dissmodel.executor.utils import default_output_uri
from dissmodel.io._utils import read_text, write_bytes, write_text

from behaviours.base import TextExecutor


class WritesEverywhere(TextExecutor):
    """Writes through dissmodel.io, to the default address, and to relative paths."""

    name = "writes-everywhere"

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        mine = f"s3://dissmodel-outputs/experiments/{record.experiment_id}"
        record.add_artifact("report", write_text("# Report", f"{mine}/tables/report.md"))
        record.output_path = default_output_uri(record.experiment_id, "tif")
        record.add_artifact("output", write_bytes(b"II*\0raster", record.output_path))
        Path(f"output_{record.experiment_id}.csv").write_text("a,b\n1,2\n")
        Path("deep/er").mkdir(parents=True)
        Path("deep/er/notes.txt").write_text(read_text(f"{mine}/tables/report.md"))
        record.add_artifact("invented", "0" * 64)
        record.add_artifact("report.md", record.artifacts["output"])
        record.status = "completed"
        return record


class WritesDirectory(TextExecutor):
    """Sets output_path to a directory of files."""

    name = "writes-directory"

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        for name in ("0.0", "0.1"):
            write_text(name, f"cube.zarr/{name}")
        record.output_path = "cube.zarr"
        record.status = "completed"
        return record


class WritesLinks(TextExecutor):
    """Leaves a link, a linked directory, a pipe and a file of two names beside its result."""

    name = "writes-links"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        Path("link").symlink_to("/etc/passwd")
        Path("directory").symlink_to("/etc")
        os.mkfifo("pipe")
        Path("one").write_text("of two names")
        Path("two").hardlink_to("one")
        return "the only file"


class WritesTo(TextExecutor):
    """Says that its result is at `output_path`, `root` or `object`, having written `result.txt`."""

    name = "writes-to"

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        record = super().save(result, record)
        parameters = record.parameters
        record.output_path = parameters.get("output_path") or f"s3://{parameters.get('object')}"
        if "root" in parameters:
            record.output_path = f"/{parameters['root']}"
        return record


class WritesObject(TextExecutor):
    """Writes the object `object` (bucket and key) through dissmodel.io."""

    name = "writes-object"

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        write_text("x", f"s3://{record.parameters['object']}")
        return super().save(result, record)


class WritesMany(TextExecutor):
    """Writes `files` files of `bytes` bytes."""

    name = "writes-many"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        for number in range(record.parameters["files"]):
            Path(f"{number}.bin").write_bytes(bytes(record.parameters["bytes"]))
        return "done"
