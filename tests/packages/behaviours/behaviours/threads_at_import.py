"""A module whose import starts a thread, as some numerical libraries do."""

from __future__ import annotations

import os
import threading
from typing import Any

from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor

threading.Thread(target=threading.Event().wait, daemon=True).start()


class ThreadsAtImport(TextExecutor):
    """Says in which process it ran."""

    name = "threads-at-import"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        return str(os.getpid())
