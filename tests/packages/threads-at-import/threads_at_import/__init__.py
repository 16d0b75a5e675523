"""A package whose import starts a thread, as some numerical libraries do."""

from __future__ import annotations

import os
import threading
from typing import Any

from dissmodel.executor import ExperimentRecord, ModelExecutor
from dissmodel.io._utils import write_text

threading.Thread(target=threading.Event().wait, daemon=True).start()


class ThreadsAtImport(ModelExecutor):
    """Says in which process it ran."""

    name = "threads-at-import"

    def load(self, record: ExperimentRecord) -> Any:
        return None

    def run(self, data: Any, record: ExperimentRecord) -> str:
        return str(os.getpid())

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        record.output_path = "pid.txt"
        record.output_sha256 = write_text(result, record.output_path)
        record.status = "completed"
        return record
