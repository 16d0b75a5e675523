"""Models that return records which no platform expects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor


class BadRecord(TextExecutor):
    """Spoils the record in the way that `how` names."""

    name = "bad-record"

    def save(self, result: str, record: ExperimentRecord) -> Any:
        how = record.parameters["how"]
        record = super().save(result, record)
        if how == "none":
            return None
        if how == "status":
            record.status = "failed"
        elif how == "output_path":
            record.__dict__["output_path"] = 7
        elif how == "artifacts":
            record.__dict__["artifacts"] = ["result.txt"]
        elif how == "numbers":
            record.metrics |= {
                "whole": np.int64(3),
                "real": np.float32(0.5),
                "none": float("nan"),
                "endless": float("inf"),
                "array": np.arange(3),
                "text": "a\0b\ud800c",
            }
            record.add_log("a log line with \0 and \ud800")
        return record


class ForgesResult(TextExecutor):
    """Writes `content` as the harness's own result, and ends before the harness can."""

    name = "forges-result"

    def save(self, result: str, record: ExperimentRecord) -> Any:
        forged = Path("../result/result.json")
        if record.parameters["content"] == "a pipe":
            os.mkfifo(forged)
        else:
            forged.write_text(record.parameters["content"])
        os._exit(0)
