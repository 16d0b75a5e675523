"""Carry what a run tells into the database, a few times a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.execution.events import LogLine, PhaseStarted, Progress, RunEvent
from dissmodel_platform.execution.forkserver import Run
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.transitions import report

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25
MOST_LINES = 20_000
"""Log lines that are kept of one run; a chatty model is told so and goes on."""


class Journal:
    """The log and the progress of one attempt."""

    def __init__(self, database: Database, experiment: Experiment) -> None:
        self._database = database
        self._experiment = experiment
        self._lines: list[LogLine] = []
        self._kept = 0
        self._progress: dict[str, Any] = {}
        self._progress_changed = False
        self.disowned = False

    async def follow(self, run: Run) -> None:
        """Keep what a run tells until its process has ended.

        Ends early, with ``disowned`` set, when the experiment was cancelled or given to another
        worker; the caller then stops the run.
        """
        ended = asyncio.Event()
        flusher = asyncio.create_task(self._flush_until(ended))
        listener = asyncio.create_task(self._listen(run))
        try:
            await asyncio.wait({flusher, listener}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.set()  # a write that is under way comes to its end, so that no line is lost
            listener.cancel()
            results = await asyncio.gather(flusher, listener, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def take_lines(self) -> list[LogLine]:
        """Return the lines that are not written yet; the caller writes them."""
        lines, self._lines = self._lines, []
        return lines

    def add(self, event: RunEvent) -> None:
        """Note one event."""
        if isinstance(event, LogLine):
            self._add_line(event)
        elif isinstance(event, PhaseStarted):
            self._progress["phase"] = event.phase
            self._progress_changed = True
        elif isinstance(event, Progress):
            fraction = (event.time - event.start) / (event.end - event.start)
            self._progress |= {
                "time": event.time,
                "start": event.start,
                "end": event.end,
                "percent": round(100 * min(1.0, max(0.0, fraction)), 1),
            }
            self._progress_changed = True

    def _add_line(self, line: LogLine) -> None:
        self._kept += 1
        if self._kept <= MOST_LINES:
            self._lines.append(line)
        elif self._kept == MOST_LINES + 1:
            text = f"The model printed more than {MOST_LINES} lines; the rest is not kept."
            self._lines.append(LogLine("platform", text))

    async def _listen(self, run: Run) -> None:
        async for event in run.events():
            self.add(event)

    async def _flush_until(self, ended: asyncio.Event) -> None:
        while not self.disowned and not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), FLUSH_SECONDS)
                return
            await self._flush()

    async def _flush(self) -> None:
        """Write what is new; while the database is away, keep it for later."""
        lines = self.take_lines()
        progress = dict(self._progress) if self._progress_changed else None
        self._progress_changed = False
        try:
            self.disowned = not await report(self._database, self._experiment, lines, progress)
        except DatabaseError as error:
            log.warning("experiment %s: %s", self._experiment.id, error)
            self._lines[:0] = lines
            self._progress_changed |= progress is not None
