"""git commands that outlived the process that started them: found by the lock that they hold.

A killed sync leaves its git behind, and with it perhaps an ssh that waits for a silent host: nobody
is there to enforce a time limit, and both hold the mirror's lock. So every command that inherits
the lock carries a mark of who started it, and whoever finds the lock taken ends those whose starter
is no more. That needs no process beside git and costs nothing while nobody is killed.

Works by ``/proc``; elsewhere nothing is found, and an orphan is waited for.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

WRITER_VARIABLE = "REGISTRY_WRITER"
"""Environment variable of a command that inherits the lock: who started it."""

_PROC = Path("/proc")


def writer_mark() -> str:
    """Return what tells this process from every other one, also from a later one of its number."""
    return f"{os.getpid()}:{_start_time(os.getpid())}"


def end_orphans(lock: int) -> list[int]:
    """End the processes that hold a lock for a process that has ended.

    Parameters
    ----------
    lock : int
        Descriptor of the lock's file.

    Returns
    -------
    list of int
        Ids of the processes that were ended.
    """
    wanted = os.fstat(lock)
    ended = []
    for pid in _processes():
        if pid == os.getpid() or not _is_orphan(pid) or not _has_open(pid, wanted):
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            ended.append(pid)
    return ended


def _processes() -> list[int]:
    if not _PROC.is_dir():
        return []
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]


def _is_orphan(pid: int) -> bool:
    """Whether a process carries the mark of one that is no more.

    A number means nothing in another container: what runs there is left to it.
    """
    prefix = f"{WRITER_VARIABLE}=".encode()
    with contextlib.suppress(OSError):
        variables = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
        marks = [word.removeprefix(prefix) for word in variables if word.startswith(prefix)]
        if not marks or _namespace(pid) != _namespace(os.getpid()):
            return False
        writer, _, start_time = marks[-1].decode("ascii", "replace").partition(":")
        return writer.isdecimal() and _start_time(int(writer)) != start_time
    return False


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False


def _namespace(pid: int) -> Path:
    return (_PROC / str(pid) / "ns" / "pid").readlink()


def _start_time(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where there is none."""
    with contextlib.suppress(OSError):
        # The program's name comes first, in brackets, and may hold brackets and blanks.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
