"""Commands that take minutes and start others: bounded, ended whole, interruptible."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from dissmodel_platform.environments.scratch import size_on_disk
from dissmodel_platform.errors import BuildInterrupted
from dissmodel_platform.processes import BoundProcess

OUTPUT_TAIL_BYTES = 16_384
OUTPUT_LIMIT_BYTES = 64 * 1024**2
_LOOK_SECONDS = 0.5
_HIDDEN_SECONDS = 30.0


@dataclass(frozen=True)
class Bounds:
    """Limits of one command and all that it starts.

    Attributes
    ----------
    timeout_seconds : float
        Wall-clock time.
    memory_bytes : int
        Address space of each process; 0: none.
    disk_bytes : int
        What may lie in its scratch directory, with what is new in the package cache; 0: no limit.
    """

    timeout_seconds: float
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Finished:
    """How a command ended.

    Attributes
    ----------
    exit_code : int or None
        Minus the signal's number where one ended it; ``None``: a limit did.
    output_tail : str
        The last bytes of its standard output and error.
    limit : str
        What it did that ended it, such as ``did not end within 600 s``, and how to allow it.
    """

    exit_code: int | None
    output_tail: str
    limit: str = ""


class Commands:
    """Runs commands, each in a process group of its own; may be shared by threads.

    Parameters
    ----------
    bounds : Bounds
        Limits of each command.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._guard = threading.Lock()
        self._running: set[BoundProcess] = set()
        self._is_interrupted = False

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        scratch: Path | None = None,
        cache: Path | None = None,
        timeout_seconds: float | None = None,
    ) -> Finished:
        """Run one command and wait for it; after this, nothing of its process group is left.

        Parameters
        ----------
        command : sequence of str
            Absolute path of the program, and its arguments.
        cwd : Path
            Where it works.
        environment : mapping of str to str
            All its variables.
        scratch : Path, optional
            The directory whose content is bounded.
        cache : Path, optional
            A package cache: what anybody adds to it meanwhile counts as well, because wheels are
            unpacked there.
        timeout_seconds : float, optional
            A shorter limit than that of the bounds.

        Raises
        ------
        BuildInterrupted
            The worker is being stopped.
        """
        bounds = self.bounds
        if timeout_seconds is not None:
            shorter = min(timeout_seconds, bounds.timeout_seconds)
            bounds = replace(bounds, timeout_seconds=shorter)
        with tempfile.TemporaryFile() as output:
            process = self._start(command, cwd, environment, output)
            exit_code, limit = None, ""
            try:
                disk = _Disk(scratch, cache, time.time()) if scratch else None
                exit_code, limit = self._wait(process, output, disk, bounds)
            finally:
                _end(process)
                with self._guard:
                    self._running.discard(process)
            self.check()
            return Finished(exit_code, _tail(output), limit)

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

    def _wait(
        self, bound: BoundProcess, output: IO[bytes], disk: _Disk | None, bounds: Bounds
    ) -> tuple[int | None, str]:
        """Return the exit code, or ``None`` and the limit that the command went over."""
        deadline = time.monotonic() + bounds.timeout_seconds
        while True:
            patience = min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))
            exit_code = bound.wait(patience)
            if exit_code is not None:
                return exit_code, ""
            if time.monotonic() >= deadline:
                return None, (
                    f"did not end within {bounds.timeout_seconds:g} s; raise "
                    "PLATFORM_BUILD_TIMEOUT_SECONDS if the package needs longer"
                )
            if os.fstat(output.fileno()).st_size > OUTPUT_LIMIT_BYTES:
                return None, f"printed more than {OUTPUT_LIMIT_BYTES >> 20} MiB; make it quieter"
            used = disk.used_bytes() if disk and bounds.disk_bytes else 0
            if used is None:
                return None, "hid what it wrote; keep directories open, and their paths short"
            if used > bounds.disk_bytes:
                return None, (
                    f"wrote more than {bounds.disk_bytes / 1e9:g} GB; raise "
                    "PLATFORM_BUILD_DISK_BYTES if the package needs more"
                )

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


@dataclass
class _Disk:
    """What a command takes on the disk."""

    scratch: Path
    cache: Path | None
    begin: float
    hidden_since: float | None = None

    def used_bytes(self) -> int | None:
        """Return what it takes now; ``None`` where it has kept that from being seen for long.

        For a moment that is no fault: the tests of some ``configure`` scripts do so.
        """
        places = [self.scratch]
        if self.cache is not None and not self.cache.is_relative_to(self.scratch):
            places += _new_in_cache(self.cache, self.begin)
        try:
            used = size_on_disk(places)
        except OSError:
            now = time.monotonic()
            self.hidden_since = self.hidden_since or now
            return 0 if now - self.hidden_since < _HIDDEN_SECONDS else None
        self.hidden_since = None
        return used


def _new_in_cache(cache: Path, begin: float) -> list[Path]:
    """Return what ``uv`` unpacks in its cache, or has unpacked, since a time."""
    found = []
    for path in (*cache.glob(".tmp*"), *cache.glob("archive-v*/*")):
        with contextlib.suppress(OSError):
            if path.lstat().st_ctime >= begin:
                found.append(path)
    return found


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - OUTPUT_TAIL_BYTES))
    return file.read().decode("utf-8", "replace").strip()
