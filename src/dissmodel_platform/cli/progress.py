"""Show how far a run is: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from dissmodel_platform.cli.echo import printable
from dissmodel_platform.types import ExperimentStatus


class RunProgress:
    """Draws the job objects of one run.

    Parameters
    ----------
    title : str
        What is being run.
    stream : text file
        Where to; a bar where this is a terminal.
    """

    def __init__(self, title: str, stream: TextIO) -> None:
        self._title = title
        self._stream = stream
        self._shown: str | None = None
        self._plain = not stream.isatty()
        self._bar = Progress(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[clock]}", markup=False),
            TimeElapsedColumn(),
            console=Console(file=stream),
            disable=self._plain,
        )
        self._task = self._bar.add_task(title, total=100, clock="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, job: dict[str, Any]) -> None:
        """Draw one job object."""
        progress = job.get("progress") or {}
        has_ended = ExperimentStatus(job["status"]).is_final
        stage = printable(job["status"] if has_ended else progress.get("phase") or job["status"])
        clock = ""
        if "time" in progress:
            clock = f"year {progress['time']:g} of {progress['end']:g}"
        if self._plain:
            if stage != self._shown:
                print(f"{self._title}: {stage} {clock}".rstrip(), file=self._stream, flush=True)
                self._shown = stage
            return
        done = job["status"] == ExperimentStatus.COMPLETED
        self._bar.update(
            self._task,
            completed=100 if done else progress.get("percent", 0),
            description=f"{self._title}: {stage}",
            clock=clock,
        )
