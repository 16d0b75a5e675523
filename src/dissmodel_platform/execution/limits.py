"""What one run may take, and the watch that ends it when it takes more.

The kernel's limits (setrlimit(2)) hold for single processes; what a run's processes take together
is looked at from outside, a few times a second, in ``/proc`` and on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dissmodel_platform.environments.scratch import size_on_disk
from dissmodel_platform.execution.forkserver import Run
from dissmodel_platform.registry.resources import Resources
from dissmodel_platform.settings import Settings

LOOK_SECONDS = 0.25
_DISK_LOOK_SECONDS = 1.0
_HIDDEN_LOOKS = 30
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_SERVER_LEVEL = 2  # of a process id in NSpid: this process's, bubblewrap's, the server's


@dataclass(frozen=True)
class RunLimits:
    """Limits of one run; 0 stands for none.

    Attributes
    ----------
    seconds : float
        Wall-clock time.
    memory_bytes : int
        Memory of all its processes together.
    cpu_seconds : float
        Processor time of all its processes together.
    processes : int
        Processes at a time.
    disk_bytes : int
        What it writes.
    cores : int
        Threads of numerical libraries: part of what makes a result, so never the machine's choice.
    """

    seconds: float
    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    processes: int = 0
    disk_bytes: int = 0
    cores: int = 1

    @classmethod
    def of(cls, settings: Settings, resources: Resources) -> RunLimits:
        """Return the operator's limits, narrowed by what the model's spec says."""
        return cls(
            seconds=min(settings.run_timeout_seconds, resources.seconds or float("inf")),
            memory_bytes=_narrowed(settings.run_memory_bytes, resources.memory),
            cpu_seconds=_narrowed(settings.run_cpu_seconds, resources.cpu_seconds),
            processes=_narrowed(settings.run_processes, resources.processes),
            disk_bytes=_narrowed(settings.run_disk_bytes, resources.disk),
            cores=resources.cores or 1,
        )

    def of_each_process(self) -> Mapping[str, int]:
        """Return the limits that the kernel holds each process to, by their names."""
        limits = {"RLIMIT_CORE": 0}
        if self.memory_bytes:
            limits["RLIMIT_DATA"] = self.memory_bytes
        if self.disk_bytes:
            limits["RLIMIT_FSIZE"] = self.disk_bytes
        return limits


def _narrowed(operators: float, models: float | None) -> Any:
    """Return the smaller limit; 0 and ``None`` are none."""
    return min((limit for limit in (operators, models) if limit), default=0)


class Watch:
    """Looks at one run in progress.

    Parameters
    ----------
    run : Run
        The run.
    directory : Path
        Its own directory.
    limits : RunLimits
        What it may take.
    """

    def __init__(self, run: Run, directory: Path, limits: RunLimits) -> None:
        self._run = run
        self._directory = directory
        self._limits = limits
        self._roots: Mapping[int, int] = {}
        self._disk_looked_at = time.monotonic()
        self._looks_in_vain = 0

    async def excess(self) -> str:
        """Wait until the run takes more than it may; returns what, as the end of a sentence."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = await asyncio.to_thread(self._look)
            if found:
                return found

    def _look(self) -> str:
        limits = self._limits
        taken = self._processes()
        memory = sum(process.memory_bytes for process in taken.values())
        if limits.memory_bytes and memory > limits.memory_bytes:
            # pages that processes share count once for each: look more closely, which takes longer
            memory = sum(map(_own_memory_bytes, taken))
        if limits.memory_bytes and memory > limits.memory_bytes:
            return f"memory limit of {shown_size(limits.memory_bytes)} reached"
        if limits.processes and len(taken) > limits.processes:
            return f"limit of {limits.processes} processes reached"
        if limits.cpu_seconds and _cpu_seconds(taken) > limits.cpu_seconds:
            return f"processor time limit of {limits.cpu_seconds:g} s reached"
        return self._look_at_disk() if limits.disk_bytes else ""

    def _look_at_disk(self) -> str:
        now = time.monotonic()
        if now - self._disk_looked_at < _DISK_LOOK_SECONDS:
            return ""
        places = [self._directory / name for name in ("outputs", "result", "home", "tmp")]
        try:
            used = size_on_disk(places)
            self._looks_in_vain = 0
        except OSError:  # a directory is closed, for a moment or for good
            used = 0
            self._looks_in_vain += 1
        self._disk_looked_at = time.monotonic()
        if self._looks_in_vain > _HIDDEN_LOOKS:
            return "it hides what it writes (keep directories open, and their paths short)"
        if used > self._limits.disk_bytes:
            return f"disk limit of {shown_size(self._limits.disk_bytes)} reached"
        return ""

    def _processes(self) -> dict[int, _Process]:
        """Return the run's processes, whatever became of their parents, groups and sessions."""
        everybody = _everybody()
        run = self._run
        if not self._roots:
            self._roots = _roots(run, everybody)
        own = _descendants(self._roots, everybody)
        if not run.harness.has_namespaces:
            own |= {pid for pid, each in everybody.items() if each.group == run.pid}
        own -= {here for here, there in self._roots.items() if there == run.keeper}
        return {pid: everybody[pid] for pid in own if pid in everybody}


@dataclass(frozen=True)
class _Process:
    """What ``/proc/<pid>/stat`` says of a process (proc(5)); times with its ended children's."""

    parent: int
    group: int
    memory_bytes: int
    cpu_seconds: float


def _cpu_seconds(processes: Mapping[int, _Process]) -> float:
    return sum(process.cpu_seconds for process in processes.values())


def _everybody() -> dict[int, _Process]:
    """Return all processes that can be seen: none where the system has no ``/proc``."""
    found: dict[int, _Process] = {}
    if not Path("/proc/self/stat").exists():
        return found
    for name in os.listdir("/proc"):  # noqa: PTH208 - numbers, a few times a second
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
                found[int(name)] = _Process(
                    parent=int(stat[1]),
                    group=int(stat[2]),
                    memory_bytes=int(stat[21]) * _PAGE_BYTES,
                    cpu_seconds=sum(map(int, stat[11:15])) / _TICKS_PER_SECOND,
                )
    return found


def _descendants(roots: Iterable[int], everybody: Mapping[int, _Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, process in everybody.items():
        children.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    pending = list(roots)
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += children.get(pid, ())
    return found


def _roots(run: Run, everybody: Mapping[int, _Process]) -> Mapping[int, int]:
    """Find the run's process and the first one of its namespace: ids here, and the server's."""
    assert run.pid is not None, "the run has started"
    if not run.harness.has_namespaces:
        return {run.pid: run.pid}
    below = _descendants([run.harness.process.pid], everybody)
    known = ((pid, _id_for_server(pid)) for pid in below)
    return {pid: there for pid, there in known if there in (run.pid, run.keeper) and there}


def _id_for_server(pid: int) -> int | None:
    """Return by which number a server of runs knows a process; ``None``: it does not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("NSpid:")]
        levels = [int(word) for word in line.split()[1:]]
    except (OSError, ValueError):
        return None
    return levels[_SERVER_LEVEL] if len(levels) > _SERVER_LEVEL else None


def _own_memory_bytes(pid: int) -> int:
    """Return a process's memory, of pages that several have its share (PSS)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended, or may not be looked at so closely
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def shown_size(size: int) -> str:
    """Write a size as people read it: ``2.1 GB``."""
    return f"{size / 1e9:.3g} GB" if size >= 10**9 else f"{size / 1e6:.3g} MB"
