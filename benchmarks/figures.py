"""One line of the table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What was measured, what it may be, and what else was measured beside it."""

    what: str
    measured: str
    budget: str
    yardstick: str = ""


def milliseconds(values: Sequence[float]) -> str:
    """Return median and 95th percentile of seconds, in milliseconds."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return f"{1000 * statistics.median(ordered):.0f} ms p50, {1000 * p95:.0f} ms p95"
