"""What tests of processes share: patience, whether one still runs, and what memory it takes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Return the first true value of a condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.01)
    return value


def is_running(pid: int) -> bool:
    """Say whether a process exists and has not ended; a zombie has."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it has ended meanwhile, or this system has no /proc
        return not Path("/proc/self").exists()
    return state not in "XZ"


@contextlib.contextmanager
def at_most_grown_by(limit_bytes: int) -> Iterator[None]:
    """See that this process takes at most so much more memory at any time inside the block.

    Looks on Linux only, which alone can forget a highest use of before.
    """
    forget = Path("/proc/self/clear_refs")
    if not forget.exists():
        yield
        return
    forget.write_text("5")
    before_bytes = _memory_bytes("VmRSS")
    yield
    grown_bytes = _memory_bytes("VmHWM") - before_bytes
    assert grown_bytes < limit_bytes, f"memory grew by {grown_bytes / 1e6:.0f} MB"


def _memory_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(value) * 1024
