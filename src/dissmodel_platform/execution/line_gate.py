"""How many lines a run may send: a token bucket, so that a chatty model slows nobody down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_BURST_SECONDS = 10.0
"""A model may print the lines of so many seconds at once."""

_REOPEN_SECONDS = 1.0
"""A bucket that ran empty opens again with the lines of so many seconds: a log with few gaps is
easier to read than one that lacks every other line."""


class LineGate:
    """A token bucket of lines.

    Parameters
    ----------
    lines_per_second : float
        How many lines pass in the long run; ten seconds' worth of them may come at once.
    clock : callable
        Seconds; for tests.
    """

    def __init__(
        self, lines_per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._left_out = 0
        self._rate = lines_per_second
        self._seen_at = clock()
        self._tokens = self._most
        self._is_empty = False
        self._is_closed = False

    @property
    def _most(self) -> float:
        return max(1.0, self._rate * _BURST_SECONDS)

    def set_rate(self, lines_per_second: float) -> None:
        """Change the rate, with a full bucket."""
        self._rate = lines_per_second
        self._tokens = self._most
        self._is_empty = False

    def close(self) -> None:
        """Let nothing pass any more; what comes is not counted either."""
        self._is_closed = True
        self._left_out = 0

    def is_shut(self) -> bool:
        """Say whether lines are left out just now."""
        if self._is_closed:
            return True
        now = self._clock()
        gained = (now - self._seen_at) * self._rate
        self._tokens, self._seen_at = min(self._most, self._tokens + gained), now
        if self._is_empty and self._tokens >= max(1.0, self._rate * _REOPEN_SECONDS):
            self._is_empty = False
        return self._is_empty

    def admit(self, lines: int) -> int:
        """Return how many of these lines may pass; the others are counted."""
        if self.is_shut():
            passing = 0
        else:
            passing = min(lines, math.floor(self._tokens))
            self._tokens -= passing
            self._is_empty = passing < lines
        if not self._is_closed:
            self._left_out += lines - passing
        return passing

    def take_left_out(self) -> int:
        """Return how many lines were left out since the last call."""
        count, self._left_out = self._left_out, 0
        return count
