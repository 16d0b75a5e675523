"""Commands that take minutes and start others: bounded in time, ended whole, interruptible."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dissmodel_platform.errors import BuildInterrupted
from dissmodel_platform.processes import BoundProcess

OUTPUT_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class Finished:
    """How a command ended.

    Attributes
    ----------
    exit_code : int or None
        Minus the signal's number where one ended it; ``None``: the time limit did.
    output_tail : str
        The last bytes of its standard output and error.
    """

    exit_code: int | None
    output_tail: str


class Commands:
    """Runs commands, each in a process group of its own; may be shared by threads.

    Parameters
    ----------
    timeout_seconds : float
        Wall-clock limit of one command.
    """

    def __init__(self, *, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._guard = threading.Lock()
        self._running: set[BoundProcess] = set()
        self._is_interrupted = False

    def run(self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Finished:
        """Run one command and wait for it; after this, nothing of its process group is left.

        Raises
        ------
        BuildInterrupted
            The worker is being stopped.
        """
        with tempfile.TemporaryFile() as output:
            process = self._start(command, cwd, environment, output)
            exit_code: int | None = None
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    exit_code = process.process.wait(self.timeout_seconds)
            finally:
                _end(process)
                with self._guard:
                    self._running.discard(process)
            self.check()
            return Finished(exit_code, _tail(output))

    def interrupt(self) -> None:
        """End the commands that run now and refuse new ones; for shutting down."""
        with self._guard:
            self._is_interrupted = True
            for process in self._running:
                _end(process)

    def check(self) -> None:
        """Go on only while the worker does.

        Raises
        ------
        BuildInterrupted
            It is being stopped.
        """
        if self._is_interrupted:
            raise BuildInterrupted("The build was ended because the worker is being stopped.")

    def _start(
        self, command: Sequence[str], cwd: Path, environment: Mapping[str, str], output: IO[bytes]
    ) -> BoundProcess:
        """Start a command that the kernel ends if this process is killed."""
        with self._guard:
            self.check()
            process = BoundProcess(
                command,
                death_signal=signal.SIGKILL,
                environment=environment,
                output=output,
                cwd=cwd,
            )
            self._running.add(process)
        return process


def _end(bound: BoundProcess) -> None:
    """End a command's whole process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(bound.process.pid, signal.SIGKILL)
    bound.process.wait()
    bound.release()


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - OUTPUT_TAIL_BYTES))
    return file.read().decode("utf-8", "replace").strip()
