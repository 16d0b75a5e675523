"""The fork server: imports a model's package once and forks one child per run.

Messages are JSON objects, one a line, on a stream socket. The worker sends ``run`` (with the three
descriptors for standard output, standard error and events) and ``signal``; the server answers
``ready`` or ``broken`` once, then for each run ``started`` (or ``refused`` or ``lost``) and
``exited``.

A fork is safe only while the parent has one thread, so the server imports and nothing else, and
counts its threads before each fork.
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
from pathlib import Path
from typing import Any

from .events import EventWriter
from .inspection import ImportReport, import_executors
from .lifecycle import run_experiment

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MESSAGE_BYTES = 65_536
_DESCRIPTORS = 3


class Server:
    """One preloaded process.

    Parameters
    ----------
    channel : socket.socket
        Stream socket to the worker.
    parent_pid : int
        The worker; this process ends with it.
    fresh : bool
        Run one experiment in this process instead of forking.
    """

    def __init__(self, channel: socket.socket, *, parent_pid: int, fresh: bool) -> None:
        self._channel = channel
        self._fresh = fresh
        self._runs: dict[str, int] = {}
        self._received = b""
        self._descriptors: list[int] = []
        self._children: socket.socket | None = None
        self._pid = os.getpid()
        die_with(parent_pid)

    def serve(self, distribution: str, module: str) -> None:
        """Import the executors, then answer requests until the worker closes the channel."""
        try:
            report = import_executors(distribution, module)
        except BaseException as error:
            traceback.print_exc()
            self._send("broken", **ImportReport.failed(error).as_json())
            return
        self._send("ready", threads=thread_count(), **report.as_json())
        if self._fresh:
            self._serve_once()
        else:
            self._serve_forks()

    def _serve_once(self) -> None:
        """Wait for the one run of this process and become it."""
        while True:
            for message in self._receive():
                if message["op"] == "run":
                    descriptors = self._take_descriptors()
                    self._send("started", run=message["run"], pid=os.getpid())
                    self._become_run(message, descriptors)

    def _serve_forks(self) -> None:
        woken, wakes = socket.socketpair()
        woken.setblocking(False)
        wakes.setblocking(False)
        self._children = woken
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ, self._answer)
            selector.register(woken, selectors.EVENT_READ, self._reap)
            while True:
                for key, _ in selector.select():
                    handler: Callable[[], None] = key.data
                    handler()

    def _answer(self) -> None:
        for message in self._receive():
            if message["op"] == "run":
                self._fork(message, self._take_descriptors())
            elif message["op"] == "signal" and message["run"] in self._runs:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._runs[message["run"]], message["signal"])

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> None:
        threads = thread_count()
        if threads != 1:
            _close(descriptors)
            self._send("refused", run=message["run"], threads=threads)
            return
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            _close(descriptors)
            self._send("lost", run=message["run"], reason=str(error))
            return
        if pid == 0:
            self._become_run(message, descriptors)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # also done by the child: whoever is first
        self._runs[message["run"]] = pid
        _close(descriptors)
        self._send("started", run=message["run"], pid=pid)

    def _become_run(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Turn this process into the run; never returns."""
        code = 70  # EX_SOFTWARE: the harness itself broke
        try:
            if not self._fresh:
                die_with(self._pid, signal.SIGKILL)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setpgid(0, 0)
                assert self._children is not None
                self._children.close()
            self._channel.close()
            stdout, stderr, events = descriptors
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            _close([stdout, stderr])
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            for name, value in message["limits"].items():
                limit_resource(name, value)
            directory = Path(message["directory"])
            os.chdir(directory / "outputs")
            code = run_experiment(directory, EventWriter(events))
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        assert self._children is not None
        with contextlib.suppress(BlockingIOError):
            self._children.recv(4096)
        for run, pid in list(self._runs.items()):
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
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
            for pid in self._runs.values():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
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
