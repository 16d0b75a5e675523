"""A small simulation with a clock, whose result depends on everything that it reads."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from dissmodel.core import Environment, Model
from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor


class Step(Model):
    """Multiplies all values once a year."""

    def __init__(self, values: Any, rate: float, pause: float) -> None:
        super().__init__()
        self.values = values
        self.rate = rate
        self.pause = pause

    def execute(self) -> None:
        self.values *= 1.0 + self.rate
        time.sleep(self.pause)


class GrowthExecutor(TextExecutor):
    """Grows the numbers of a JSON list for `end_time` years at `rate`; `pause` seconds a year."""

    name = "growth"
    output_suffix = ".txt"

    def validate(self, record: ExperimentRecord) -> None:
        if record.parameters.get("rate", 0.1) < 0:
            raise ValueError("rate must not be negative")

    def load(self, record: ExperimentRecord) -> Any:
        return np.array(json.loads(Path(record.source.uri).read_text()), dtype=float)

    def run(self, data: Any, record: ExperimentRecord) -> str:
        parameters = record.parameters
        environment = Environment(start_time=0, end_time=parameters.get("end_time", 3))
        step = Step(
            values=data, rate=parameters.get("rate", 0.1), pause=parameters.get("pause", 0.0)
        )
        environment.run()
        print("grown to", float(step.values.sum()))
        return "\n".join(float(value).hex() for value in step.values)


if __name__ == "__main__":
    from dissmodel.executor.cli import run_cli

    run_cli(GrowthExecutor)
