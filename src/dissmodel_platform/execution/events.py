"""What a run tells while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stream = Literal["stdout", "stderr", "record", "platform"]


@dataclass(frozen=True)
class LogLine:
    """One line that the model printed."""

    stream: Stream
    text: str


@dataclass(frozen=True)
class PhaseStarted:
    """The run has entered ``validate``, ``load``, ``run`` or ``save``."""

    phase: str


@dataclass(frozen=True)
class Progress:
    """Simulated time, in the model's own unit (years in most land-use models)."""

    time: float
    start: float
    end: float


RunEvent = LogLine | PhaseStarted | Progress
