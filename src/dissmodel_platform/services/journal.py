"""Carry what a run tells into the database, a few times a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.execution.events import (
    Change,
    Entry,
    LinesLeftOut,
    LogLine,
    PhaseStarted,
    Progress,
    RunEvent,
)
from dissmodel_platform.execution.forkserver import Run
from dissmodel_platform.execution.line_gate import LineGate
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.transitions import report
from dissmodel_platform.settings import Settings

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25
OWNERSHIP_SECONDS = 1.0
"""How often a run that tells nothing looks whether the experiment is still its own."""

MOST_LINES = 20_000
"""Log lines that are kept of one run; a chatty model is told so and goes on."""

_HISTORY_STEPS = 500.0
"""Progress is kept as history once in this part of the time that the run has taken, so that a run
of a day has a few thousand entries, and the first minutes of it have all theirs."""


@dataclass(frozen=True)
class LogBounds:
    """What is kept of one run's log.

    Attributes
    ----------
    most_bytes : int
        Its size in UTF-8.
    lines_per_second : float
        How fast a model may print in the long run.
    """

    most_bytes: int = 10_000_000
    lines_per_second: float = 1_000.0

    @classmethod
    def of(cls, settings: Settings) -> LogBounds:
        """Return the operator's bounds."""
        return cls(settings.run_log_bytes, settings.run_log_lines_per_second)


class Journal:
    """The log and the progress of one attempt.

    Parameters
    ----------
    database : Database
        Where they are written.
    experiment : Experiment
        The attempt.
    bounds : LogBounds
        What is kept of the log.
    clock : callable
        Seconds, never going back; for tests.
    """

    def __init__(
        self,
        database: Database,
        experiment: Experiment,
        bounds: LogBounds = LogBounds(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._experiment = experiment
        self._bounds = bounds
        self._clock = clock
        self._entries: list[Entry] = []
        self._lines_kept = 0
        self._bytes_kept = 0
        self._gate: LineGate | None = None
        self._is_full = False
        self._began_at = clock()
        self._phases: dict[str, float] = {}
        self._progress: dict[str, Any] = {}
        self._progress_changed = False
        self._progress_kept_at = -float("inf")
        self._has_unkept_progress = False
        self._forecast = _Forecast(clock)
        self._written_at = clock()
        self._could_write = True
        self._closing = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self.disowned = asyncio.Event()

    def open(self) -> None:
        """Begin to write what is told; after this, nothing waits for longer than a second."""
        self._flusher = asyncio.create_task(self._flush_until_closed())

    async def close(self, *, write: bool = False) -> None:
        """Write no more; after this, the caller alone has what is not written yet.

        Parameters
        ----------
        write : bool
            Whether to write that before, if the database answered the last time.
        """
        self._closing.set()  # a write that is under way comes to its end, so that no line is lost
        if self._flusher is not None:
            [fault] = await asyncio.gather(self._flusher, return_exceptions=True)
            self._flusher = None
            if isinstance(fault, Exception):
                log.error("experiment %s: its log", self._experiment.id, exc_info=fault)
        if write and self._could_write and not self.disowned.is_set():
            await self._flush()

    async def follow(self, run: Run) -> None:
        """Keep what a run tells until its process has ended.

        Ends early, with ``disowned`` set, when the experiment was cancelled or given to another
        worker; the caller then stops the run.
        """
        self._gate = run.gate
        run.gate.set_rate(self._bounds.lines_per_second)
        listener = asyncio.create_task(self._listen(run))
        disowning = asyncio.create_task(self.disowned.wait())
        try:
            await asyncio.wait({listener, disowning}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listener.cancel()
            disowning.cancel()
            results = await asyncio.gather(listener, disowning, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def take(self) -> tuple[list[Entry], dict[str, Any] | None]:
        """Return the entries that are not written yet, and the progress; the caller writes them."""
        self._tell_left_out()
        entries, self._entries = self._entries, []
        progress = dict(self._progress) if self._progress_changed else None
        self._progress_changed = False
        return entries, progress

    def phase_seconds(self) -> dict[str, float]:
        """Return how long each phase has taken so far."""
        ends = [*list(self._phases.values())[1:], self._clock()]
        return {
            phase: end - begin
            for (phase, begin), end in zip(self._phases.items(), ends, strict=False)
        }

    def enter(self, phase: str) -> None:
        """Note that a phase begins; one that was there before is not entered again."""
        if phase in self._phases:  # the model can write to the pipe that its phases come through
            return
        self._keep_progress()
        self._phases[phase] = self._clock()
        self._forecast.restart()
        self._progress.pop("expected_end", None)
        self._progress["phase"] = phase
        self._progress_changed = True
        self._entries.append(Change("phase", {"phase": phase}))

    def add(self, event: RunEvent) -> None:
        """Note one event."""
        if isinstance(event, LogLine):
            self._add_line(event)
        elif isinstance(event, LinesLeftOut):
            self._add_left_out(event.count)
        elif isinstance(event, PhaseStarted):
            self.enter(event.phase)
        else:
            self._add_progress(event)

    def _add_line(self, line: LogLine) -> None:
        if line.stream == "platform":  # the platform's own words are few
            self._entries.append(line)
            return
        if self._is_full:
            return
        self._lines_kept += 1
        self._bytes_kept += len(line.text.encode("utf-8", "replace")) + 1
        if self._lines_kept > MOST_LINES:
            self._fill_up(f"{MOST_LINES} lines")
        elif self._bytes_kept > self._bounds.most_bytes:
            self._fill_up(f"{self._bounds.most_bytes} bytes")
        else:
            self._entries.append(line)

    def _fill_up(self, bound: str) -> None:
        self._tell_left_out()
        self._is_full = True
        if self._gate is not None:
            self._gate.close()
        text = f"The model printed more than {bound}; the rest is not kept."
        self._entries.append(LogLine("platform", text))

    def _tell_left_out(self) -> None:
        """Say what was left out while the model has printed nothing that could be kept."""
        if self._gate is not None and not self._gate.is_shut():
            self._add_left_out(self._gate.take_left_out())

    def _add_left_out(self, count: int) -> None:
        if count and not self._is_full:
            lines = "1 line was" if count == 1 else f"{count} lines were"
            text = (
                f"{lines} left out: the model prints more than "
                f"{self._bounds.lines_per_second:g} lines a second."
            )
            self._entries.append(LogLine("platform", text))

    def _add_progress(self, event: Progress) -> None:
        fraction = (event.time - event.start) / (event.end - event.start)
        fraction = min(1.0, max(0.0, fraction))
        self._progress |= {
            "time": event.time,
            "start": event.start,
            "end": event.end,
            "percent": round(100 * fraction, 1),
            "expected_end": self._forecast.end((event.start, event.end), fraction),
        }
        self._progress_changed = True
        self._has_unkept_progress = True
        now = self._clock()
        if now - self._progress_kept_at >= (now - self._began_at) / _HISTORY_STEPS + FLUSH_SECONDS:
            self._keep_progress()

    def _keep_progress(self) -> None:
        """Make where the run stands a part of its history."""
        if self._has_unkept_progress:
            self._has_unkept_progress = False
            self._progress_kept_at = self._clock()
            self._entries.append(Change("progress", dict(self._progress)))

    async def _listen(self, run: Run) -> None:
        async for event in run.events():
            self.add(event)

    async def _flush_until_closed(self) -> None:
        while not self.disowned.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), FLUSH_SECONDS)
                return
            await self._flush()

    async def _flush(self) -> None:
        """Write what is new; while the database is away, keep it for later."""
        entries, progress = self.take()
        is_new = bool(entries) or progress is not None
        if not is_new and self._clock() - self._written_at < OWNERSHIP_SECONDS:
            return
        self._written_at = self._clock()
        try:
            if not await report(self._database, self._experiment, entries, progress):
                self.disowned.set()
            self._could_write = True
        except DatabaseError as error:
            self._could_write = False
            log.warning("experiment %s: %s", self._experiment.id, error)
            self._entries[:0] = entries
            self._progress_changed |= progress is not None


class _Forecast:
    """When a simulation will have reached its end, if it goes on as fast as until now."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Begin to measure: nothing is simulated yet."""
        self._span: tuple[float, float] | None = None
        self._begin, self._first, self._last = self._clock(), 0.0, 0.0

    def end(self, span: tuple[float, float], fraction: float) -> str | None:
        """Return the expected end (RFC 3339, UTC) when a fraction of the time is simulated.

        Parameters
        ----------
        span : tuple of float
            Start and end of the simulated time; another one is another simulation.
        fraction : float
            Between 0 and 1.

        Returns
        -------
        str or None
            ``None`` while nothing can be said.
        """
        now = self._clock()
        if fraction < self._last or (self._span is not None and span != self._span):
            self._begin, self._first = now, fraction
        self._span, self._last = span, fraction
        gained = fraction - self._first
        if gained <= 0:
            return None
        remaining = (now - self._begin) * (1.0 - fraction) / gained
        try:
            return (datetime.now(UTC) + timedelta(seconds=remaining)).isoformat()
        except OverflowError:  # after the last year of the calendar
            return None
