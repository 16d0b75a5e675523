"""A module whose import starts a thread, as some numerical libraries do."""

from __future__ import annotations

import threading
import time
from typing import Any

from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor

IMPORTED = time.time_ns()
threading.Thread(target=threading.Event().wait, daemon=True).start()


class ThreadsAtImport(TextExecutor):
    """Says when its module was imported."""

    name = "threads-at-import"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        return str(IMPORTED)
