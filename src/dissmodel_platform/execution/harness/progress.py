"""Sample the simulation clock of a run, without the model's help."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

from .events import EventWriter

INTERVAL_SECONDS = 0.1


class ProgressSampler:
    """Report the simulated time of dissmodel's current ``Environment`` while a run goes on.

    Times are in the model's own unit (years in most land-use models). A model that uses no
    ``Environment`` reports phases only.
    """

    def __init__(self, events: EventWriter) -> None:
        self._events = events
        self._stop = threading.Event()
        self._last: tuple[float, float, float] | None = None
        self._thread = threading.Thread(target=self._sample, name="progress", daemon=True)

    def __enter__(self) -> ProgressSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._report()

    def _sample(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self._report()

    def _report(self) -> None:
        clock = _clock(sys.modules.get("dissmodel.core.environment"))
        if clock is not None and clock != self._last:
            self._last = clock
            now, start, end = clock
            self._events.write("progress", time=now, start=start, end=end)


def _clock(module: Any) -> tuple[float, float, float] | None:
    """Read now, start and end of the current environment; ``None`` where one is not a number."""
    environment = getattr(getattr(module, "Environment", None), "_current", None)
    values = [getattr(environment, name, None) for name in ("_now", "start_time", "end_time")]
    try:
        now, start, end = (float(value) for value in values)  # type: ignore[arg-type]
    except Exception:  # whatever a model's own kind of time may raise
        return None
    is_number = all(map(math.isfinite, (now, start, end)))
    return (now, start, end) if is_number and end > start else None
