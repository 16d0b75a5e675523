"""Executors for the check of a registry.

The modules `unfit` and `unimportable` are not imported here: a spec names them with
`executor_module`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dissmodel.executor import ExperimentRecord, ModelExecutor


class TinyLand(ModelExecutor):
    """Writes its input once for each year, or `nothing`."""

    name = "tiny_land"

    def load(self, record: ExperimentRecord) -> str:
        uri = record.source.uri
        return Path(uri).read_text().strip() if uri else "nothing"

    def run(self, data: str, record: ExperimentRecord) -> str:
        return " ".join([data] * int(record.parameters.get("years", 1)))

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        Path("land.txt").write_text(result)
        record.output_path = "land.txt"
        record.status = "completed"
        record.add_log(f"wrote {result}")
        return record


class Flooded(TinyLand):
    """Fails, after saying why; what it prints would be a command to GitHub's runners."""

    name = "flooded"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        print("::error file=other.toml::not by the check", flush=True)
        raise ValueError("the land is under 100% water\n::error ::or so it says")


class Endless(TinyLand):
    """Makes a file that says so, and runs until it is ended."""

    name = "endless"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        Path("running").touch()
        while True:
            time.sleep(60)
