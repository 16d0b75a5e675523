"""Tell the worker what a run is doing: one JSON object a line, on a pipe of its own."""

from __future__ import annotations

import json
import os
import threading
from typing import Any


class EventWriter:
    """Write events to a file descriptor; safe from several threads; silent once nobody listens."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Send one event."""
        line = json.dumps({"event": event, **fields}, default=str) + "\n"
        with self._lock:
            data = memoryview(line.encode())
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                return
