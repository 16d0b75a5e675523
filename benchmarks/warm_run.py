"""A warm run of the example: what the platform adds to the model's own time."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, milliseconds
from benchmarks.platforms import RunningPlatform, running_platform
from dissmodel_platform.templates import template_directory

MODEL = "flood_vector"
_RUNS = 50
_COMMAND_RUNS = 5
_GRID = "data/grid.zip"


def measure() -> Iterator[Figure]:
    """Measure the first run, warm runs, and the model's own command line beside them."""
    grid = template_directory("coastal-flood") / _GRID
    with running_platform(MODEL) as platform:
        uri = platform.client.upload(grid)["uri"]
        first = _run(platform, uri)
        records = [_run(platform, uri) for _ in range(_RUNS)]
        command = [_command_line(platform, first, grid) for _ in range(_COMMAND_RUNS)]
    own = [float(record["metrics"]["time_total_sec"]) for record in records]
    whole = [_seconds(record) for record in records]
    added = [all_ - model for all_, model in zip(whole, own, strict=True)]
    yield Figure(
        f"warm run over the model's own time ({_RUNS} runs, from submission to result)",
        milliseconds(added),
        "≤ 60 ms p50",
        f"model alone {milliseconds(own)}",
    )
    yield Figure(
        "warm run, all of it", milliseconds(whole), "", f"its command line {milliseconds(command)}"
    )
    yield Figure("first run in a built environment", f"{_seconds(first):.2f} s", "")


def _run(platform: RunningPlatform, uri: str) -> dict[str, Any]:
    job = platform.client.submit(MODEL, uri)
    platform.client.wait(job["experiment_id"])
    return platform.client.record(job["experiment_id"])


def _seconds(record: dict[str, Any]) -> float:
    created, finished = (
        datetime.fromisoformat(record[name]) for name in ("created_at", "finished_at")
    )
    return (finished - created).total_seconds()


def _command_line(platform: RunningPlatform, record: dict[str, Any], grid: Path) -> float:
    """Time the model's own command line in the very environment that the runs used."""
    environment = platform.home / "packages" / "environments" / record["environment_key"]
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        subprocess.run(
            [
                str(environment / "bin" / "python"), "-m", "coastal_flood.flood_executor", "run",
                "--input", str(grid), "--output", f"{place}/flood.gpkg",
            ],
            cwd=place,
            stdout=subprocess.DEVNULL,
            check=True,
        )  # fmt: skip
        return time.perf_counter() - begin
