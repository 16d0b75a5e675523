"""The server of runs: imports a model's package once and forks one child per run.

Messages are JSON objects, one a line, on a stream socket. The worker sends ``run`` (with the three
descriptors for standard output, standard error and events) and ``signal``; the server answers
``ready`` or ``broken`` once, then for each run ``started`` (or ``refused`` or ``lost``) and
``exited``.

A fork is safe only while the parent has one thread, so the server imports and nothing else, and
counts its threads before each fork. A bare server imports nothing: its runs do, each for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .events import EventWriter
from .inspection import ImportReport, import_executors
from .lifecycle import Package, run_experiment
from .threads import use_threads
from .walls import RunWalls

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MESSAGE_BYTES = 65_536
_DESCRIPTORS = 3


@dataclass(frozen=True)
class _Child:
    """The process of a run, and the namespace that ends with it."""

    pid: int
    namespace: Any

    def signal(self, signum: int) -> None:
        """Signal its process group; SIGKILL ends all that it has started, in whichever group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)
        if signum == signal.SIGKILL and self.namespace is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.namespace.keeper, signal.SIGKILL)

    def clear(self) -> None:
        """End what it has left behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.namespace is not None:
            self.namespace.end()


class Server:
    """One process that makes runs.

    Parameters
    ----------
    channel : socket.socket
        Stream socket to the worker.
    package : Package
        What its runs run.
    walls : RunWalls
        What stands around them.
    bare : bool
        Leave the import to each run.
    """

    def __init__(
        self, channel: socket.socket, package: Package, walls: RunWalls, *, bare: bool
    ) -> None:
        self._channel = channel
        self._package = package
        self._walls = walls
        self._bare = bare
        self._runs: dict[str, _Child] = {}
        self._received = b""
        self._descriptors: list[int] = []
        self._pid = os.getpid()

    def serve(self) -> None:
        """Import the executors, then answer requests until the worker closes the channel."""
        report = ImportReport()
        try:
            if not self._bare:
                report = import_executors(*self._package)
        except BaseException as error:
            traceback.print_exc()
            self._send("broken", **ImportReport.failed(error).as_json())
            return
        self._woken, self._wakes = socket.socketpair()
        self._woken.setblocking(False)
        self._wakes.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._channel, selectors.EVENT_READ, self._answer)
        self._selector.register(self._woken, selectors.EVENT_READ, self._reap)
        self._send("ready", threads=thread_count(), **report.as_json())
        while True:
            for key, _ in self._selector.select():
                handler: Callable[[], None] = key.data
                handler()

    def _answer(self) -> None:
        for message in self._receive():
            if message["op"] == "run":
                self._fork(message, self._take_descriptors())
            elif message["op"] == "signal" and message["run"] in self._runs:
                self._runs[message["run"]].signal(message["signal"])

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> None:
        threads = thread_count()
        if threads != 1:
            _close(descriptors)
            self._send("refused", run=message["run"], threads=threads)
            return
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            with self._walls.new_namespace() as namespace:
                pid = os.fork()
                if pid == 0:
                    if namespace is not None:
                        namespace.leave()
                    self._become_run(message, descriptors)
        except OSError as error:
            _close(descriptors)
            self._send("lost", run=message["run"], reason=str(error))
            return
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # also done by the child: whoever is first
        self._runs[message["run"]] = _Child(pid, namespace)
        _close(descriptors)
        keeper = None if namespace is None else namespace.keeper
        self._send("started", run=message["run"], pid=pid, keeper=keeper)

    def _become_run(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Turn this process into the run; never returns."""
        code = 70  # EX_SOFTWARE: the harness itself broke
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            if not self._walls.namespaces:  # else the kernel ends all of them with the server
                die_with(self._pid)
            self._leave_server()
            stdout, stderr, events = descriptors
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            _close([stdout, stderr])
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            directory = Path(message["directory"])
            use_threads(message["cores"])
            self._walls.close_in(directory, message["limits"])
            for name, value in message["limits"].items():
                limit_resource(name, value)
            os.chdir(directory / "outputs")
            package = self._package if self._bare else None
            code = run_experiment(directory, EventWriter(events), package)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _leave_server(self) -> None:
        """Close what is the server's: its channel, its wake-up call, what came for other runs."""
        self._selector.close()
        for connection in (self._channel, self._woken, self._wakes):
            connection.close()
        _close(self._descriptors)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        for run, child in list(self._runs.items()):
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)
            if ended:
                child.clear()
                del self._runs[run]
                self._send(
                    "exited",
                    run=run,
                    code=os.waitstatus_to_exitcode(status),
                    max_rss_bytes=usage.ru_maxrss * 1024,
                    cpu_seconds=usage.ru_utime + usage.ru_stime,
                )

    def _receive(self) -> list[dict[str, Any]]:
        """Read what has arrived; ends the process when the worker has closed the channel."""
        data, descriptors, _, _ = socket.recv_fds(self._channel, _MESSAGE_BYTES, _DESCRIPTORS * 8)
        self._descriptors += descriptors
        if not data:
            for child in self._runs.values():
                child.signal(signal.SIGKILL)
            os._exit(0)
        *lines, self._received = (self._received + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _take_descriptors(self) -> list[int]:
        taken, self._descriptors = (
            self._descriptors[:_DESCRIPTORS],
            self._descriptors[_DESCRIPTORS:],
        )
        return taken

    def _send(self, event: str, **fields: Any) -> None:
        try:
            self._channel.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")
        except OSError:
            os._exit(0)


def thread_count() -> int:
    """Count the threads of this process, those of native libraries included."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except FileNotFoundError:
        return 0  # unknown (no /proc): never taken for 1


def limit_resource(name: str, value: int) -> None:
    """Lower a limit of this process: ``name`` as in ``resource.RLIMIT_…``, in its unit."""
    number = getattr(resource, name)
    _, hard = resource.getrlimit(number)
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (ceiling, ceiling))


def die_with(parent_pid: int, signum: int = signal.SIGKILL) -> None:
    """End this process when the parent thread that made it ends (Linux; see prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(0)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
