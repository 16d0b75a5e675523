"""What a run tells while it goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

Stream = Literal["stdout", "stderr", "record", "platform"]


@dataclass(frozen=True)
class LogLine:
    """One line that the model printed, or that the platform says.

    Attributes
    ----------
    read_at : float
        When it was read or said: seconds of this process's monotonic clock. The database turns it
        into a time of its own clock.
    """

    stream: Stream
    text: str
    read_at: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True)
class LinesLeftOut:
    """So many lines were not read, since the model prints faster than is allowed."""

    count: int


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


RunEvent = LogLine | LinesLeftOut | PhaseStarted | Progress


@dataclass(frozen=True)
class Change:
    """A phase that was entered, or how far the simulation is: part of an experiment's history.

    Attributes
    ----------
    kind : str
        ``phase`` or ``progress``.
    content : dict
        What is told of it, as JSON data.
    read_at : float
        As of a log line.
    """

    kind: Literal["phase", "progress"]
    content: dict[str, Any]
    read_at: float = field(default_factory=time.monotonic, compare=False)


Entry = LogLine | Change
"""What is kept of a run in the order in which it happened."""
