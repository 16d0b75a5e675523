"""A package under development: installed from its directory, run as it is at the time."""

from __future__ import annotations

from typing import Any

from dissmodel.executor import ExperimentRecord, ModelExecutor
from dissmodel.io._utils import write_text

ANSWER = "first version"


class EditableModel(ModelExecutor):
    """Writes what its source says now."""

    name = "editable"

    def load(self, record: ExperimentRecord) -> Any:
        return None

    def run(self, data: Any, record: ExperimentRecord) -> str:
        return ANSWER

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        record.output_path = "answer.txt"
        record.output_sha256 = write_text(result, record.output_path)
        record.status = "completed"
        return record
