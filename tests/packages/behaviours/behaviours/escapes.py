"""A model that tries what no run has any business with, and says what it managed."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor

_CLONE_NEWUSER_AND_MOUNTS = 0x1002_0000
_PTRACE_ATTACH = 16


class Escapes(TextExecutor):
    """Tries to get out; the parameters name what there is to get at, paths without first slash.

    Waits `seconds` before it ends, so that another run finds this one.
    """

    name = "escapes"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        aims = record.parameters
        Path("mine.txt").write_text(aims.get("says", "private"))
        managed: dict[str, Any] = {"pid": os.getpid(), "directory": str(Path.cwd())}
        for name, attempt in _attempts(aims).items():
            try:
                managed[name] = attempt()
            except OSError as error:
                managed[name] = type(error).__name__
        print("tried as", os.getpid())
        time.sleep(aims.get("seconds", 0))
        return json.dumps(managed, default=str)


def _attempts(aims: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    other = Path.cwd().parent.parent
    return {
        "read a secret file": lambda: Path("/", aims["secret"]).read_text(),
        "read the platform's home": lambda: Path("/", aims["home"], "a-key").read_text(),
        "read another environment": lambda: _names(Path("/", aims["environment"])),
        "write to its own environment": lambda: _write(Path(__file__).with_name("planted.py")),
        "write beside its directory": lambda: _write(other / "planted"),
        "write to a temporary file of all": lambda: _write(Path("/", aims["temporary"], "planted")),
        "see other runs": lambda: _others(other),
        "read another run's file": lambda: Path("/", aims["other"], "outputs/mine.txt").read_text(),
        "write to another run": lambda: _write(Path("/", aims["other"], "outputs/mine.txt")),
        "write its own inputs": lambda: _write(Path.cwd().parent / "inputs" / "planted"),
        "see the worker": lambda: Path(f"/proc/{aims['worker']}/environ").read_text(),
        "signal the worker": lambda: os.kill(aims["worker"], 0),
        "signal its server": lambda: os.kill(aims["server"], 0),
        "read its server's memory": lambda: _read_memory(aims["server"]),
        "trace its server": lambda: _trace(aims["server"]),
        "reach the database": lambda: _connect(socket.AF_UNIX, "/" + aims["database"]),
        "reach a server of this machine": lambda: _connect(
            socket.AF_INET, ("127.0.0.1", aims["port"])
        ),
        "look names up": lambda: socket.getaddrinfo("example.org", 443),
        "send to a stranger": lambda: _send(("192.0.2.1", 9)),
        "undo a mount": lambda: _call("umount2", str(other).encode(), 2),
        "mount over": lambda: _call("mount", b"none", b"/usr", b"tmpfs", 0, None),
        "be root below": _be_root_below,
        "talk to other runs": lambda: _connect(socket.AF_UNIX, "\0" + aims["abstract"]),
    }


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def _write(path: Path) -> str:
    path.write_text("was here")
    return "written"


def _others(runs: Path) -> list[str]:
    own = Path.cwd().parent.name
    found = sorted(set(_names(runs)) - {own})
    if not found:
        raise FileNotFoundError("nobody")
    return found


def _connect(family: int, address: Any) -> str:
    with socket.socket(family) as connection:
        connection.settimeout(5)
        connection.connect(address)
        return "connected"


def _send(address: tuple[str, int]) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.sendto(b"was here", address)
        return "sent"


def _read_memory(pid: int) -> str:
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        first = Path(f"/proc/{pid}/maps").read_text().partition("-")[0]
        memory.seek(int(first, 16))
        return memory.read(8).hex()


def _trace(pid: int) -> str:
    return _call("ptrace", _PTRACE_ATTACH, pid, 0, 0)


def _call(name: str, *arguments: Any) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
    return "done"


def _be_root_below() -> str:
    """Make a user namespace in a child, and try to bring the others' files back from there."""
    code = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"assert libc.unshare({_CLONE_NEWUSER_AND_MOUNTS}) == 0\n"
        "assert libc.umount2(sys.argv[1].encode(), 2) == 0\n"
        "print(os.listdir(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(Path.cwd().parent.parent)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(done.stderr[-200:])
    return done.stdout


class Outlives(TextExecutor):
    """Leaves processes in sessions of their own, the way a daemon does, and ends."""

    name = "outlives"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        for _ in range(2):
            if os.fork() == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                if os.fork() == 0:
                    time.sleep(600)
                os._exit(0)
        return "left"


class Greedy(TextExecutor):
    """Takes without end what `what` names, a step every hundredth of a second."""

    name = "greedy"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        taken: list[Any] = []
        steps = {
            "memory": lambda: taken.append(_touched(16 * 2**20)),
            "memory of children": lambda: taken.append(_hoarder()),
            "processes": lambda: taken.append(subprocess.Popen(["sleep", "600"])),
            "disk": lambda: Path(f"part-{time.time_ns()}").write_bytes(bytes(2**20)),
            "one file": lambda: _append("large", bytes(2**20)),
        }
        what = record.parameters["what"]
        print("taking", what)
        while what == "time":
            pass
        while True:
            steps[what]()
            time.sleep(0.01)


def _touched(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size)
    memory.write(b"x" * size)
    return memory


def _hoarder() -> subprocess.Popen[bytes]:
    code = "import time; x = bytearray(b'x') * (64 * 2**20); time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", code])


def _append(name: str, content: bytes) -> None:
    with Path(name).open("ab") as file:
        file.write(content)
