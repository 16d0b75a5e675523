"""What the executors have in common: no input, and a text as their result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dissmodel.executor import ExperimentRecord, ModelExecutor
from dissmodel.io._utils import write_text


def is_told_to_end() -> bool:
    """Say whether somebody outside has put the file ``end`` into this run's own directory."""
    return Path(os.environ["TMPDIR"], "end").exists()


class TextExecutor(ModelExecutor):
    """Writes the text that `run` returns to `result.txt` in the working directory.

    Without a `name` of its own, so that it is not registered itself.
    """

    def load(self, record: ExperimentRecord) -> Any:
        return None

    def run(self, data: Any, record: ExperimentRecord) -> str:
        return "done"

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        record.output_path = record.output_path or "result.txt"
        record.output_sha256 = write_text(result, record.output_path)
        record.status = "completed"
        return record
