"""The worker's side of a harness process: preloaded and forking runs, or fresh for one run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from dissmodel_platform.environments.scratch import scratch_directory
from dissmodel_platform.environments.store import Environment, clean_environment
from dissmodel_platform.errors import ExecutorModuleMissing, ModelFailed, RunLost
from dissmodel_platform.execution.events import (
    LinesLeftOut,
    LogLine,
    PhaseStarted,
    Progress,
    RunEvent,
    Stream,
)
from dissmodel_platform.execution.line_gate import LineGate
from dissmodel_platform.execution.paths import HARNESS, SANDBOX, SERVERS
from dissmodel_platform.sandbox.confinement import Confinement
from dissmodel_platform.sandbox.walls import LANDLOCK, NAMESPACES, Walls

StartMode = Literal["fork", "fresh"]

PHASES = frozenset({"validate", "load", "run", "save"})

_LONGEST_LINE_BYTES = 65_536
_EVENTS_AHEAD = 10_000
_LINES_PER_SECOND = 1_000.0  # of a run's log, unless it is told otherwise
_EVENTS_PER_SECOND = 100.0  # the harness sends about ten; whatever else comes is the model's
_BREATH_SECONDS = 0.005  # between two reads of what is left out: at most 13 MB/s of each pipe
_DRAIN_SECONDS = 1.0
_TAIL_BYTES = 16_384
_RETRY_SECONDS = 0.01


@dataclass(frozen=True)
class Exit:
    """How the process of a run ended.

    Attributes
    ----------
    code : int or None
        Exit code, or minus the signal's number; ``None`` when the harness died with the run.
    max_rss_bytes : int or None
        Largest resident size, where it is known.
    cpu_seconds : float or None
        User and system time, where it is known.
    """

    code: int | None
    max_rss_bytes: int | None = None
    cpu_seconds: float | None = None


class HarnessRefused(Exception):
    """The fork server has more than one thread, so it must not fork."""


class Run:
    """One run in progress: its events, its end, and the way to stop it.

    Attributes
    ----------
    gate : LineGate
        How fast it may print; what is beyond is left out and counted.
    """

    def __init__(self, run_id: str, harness: Harness, mode: StartMode) -> None:
        self.id = run_id
        self.mode = mode
        self.pid: int | None = None
        self.keeper: int | None = None
        self.stop_signal: int | None = None
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.gate = LineGate(_LINES_PER_SECOND)
        self.harness = harness
        self._events: asyncio.Queue[RunEvent | None] = asyncio.Queue(_EVENTS_AHEAD)
        self._readers: list[asyncio.Task[None]] = []

    async def events(self) -> AsyncIterator[RunEvent]:
        """Yield what the run tells until its process has ended and its pipes are drained."""
        while (event := await self._events.get()) is not None:
            yield event

    async def stop(self, grace_seconds: float) -> None:
        """Ask the run's process group to end, and end it when the grace is over.

        After this, the process has ended, and what it told and nobody has read is gone.
        """
        if not self.exit.done():
            await self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.exit), grace_seconds)
        if not self.exit.done():
            await self._signal(signal.SIGKILL)
            await self.exit
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _signal(self, signum: int) -> None:
        self.stop_signal = signum
        await self.harness.signal_run(self.id, signum)

    async def listen(self) -> list[int]:
        """Make the run's three pipes, start reading them, and return the ends to hand over."""
        ends: list[int] = []
        streams: tuple[Stream | None, ...] = ("stdout", "stderr", None)
        try:
            for stream in streams:
                reading, writing = os.pipe()
                ends.append(writing)
                self._readers.append(asyncio.create_task(await self._reader(reading, stream)))
        except BaseException:
            _close(ends)
            raise
        self._readers.append(asyncio.create_task(self._finish(self._readers[:])))
        return ends

    async def _reader(self, reading: int, stream: Stream | None) -> Coroutine[Any, Any, None]:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
        return self._read(reader, stream, transport)

    async def _read(
        self, reader: asyncio.StreamReader, stream: Stream | None, transport: asyncio.ReadTransport
    ) -> None:
        gate = LineGate(_EVENTS_PER_SECOND) if stream is None else self.gate
        try:
            async for line in _lines(reader, gate):
                if stream is None:
                    event = _event(line)
                    if event is not None:
                        await self._events.put(event)
                    continue
                if left_out := gate.take_left_out():  # before this line, not after it
                    await self._events.put(LinesLeftOut(left_out))
                await self._events.put(LogLine(stream, line))
        finally:
            transport.close()

    async def _finish(self, readers: list[asyncio.Task[None]]) -> None:
        """Close the stream of events once the process is gone, whoever still holds the pipes."""
        await self.exit
        await asyncio.wait(readers, timeout=_DRAIN_SECONDS)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        if left_out := self.gate.take_left_out():
            await self._events.put(LinesLeftOut(left_out))
        await self._events.put(None)


@dataclass(eq=False)
class Harness:
    """One harness process of one environment.

    Attributes
    ----------
    environment : Environment
        Whose Python it is.
    bare : bool
        Whether it leaves the import to its runs.
    has_namespaces : bool
        Whether it, and each of its runs, has namespaces: then process ids are its own.
    forkable : bool
        Whether it had a single thread after its imports.
    runs : dict of str to Run
        The runs in progress.
    held : ExitStack
        Its channel, its directory, what it prints, and the lease of its environment.
    users : int
        Callers that are about to start a run; a process with users is not retired.
    """

    environment: Environment
    bare: bool
    has_namespaces: bool
    process: asyncio.subprocess.Process
    channel: socket.socket
    output: IO[bytes]
    held: contextlib.ExitStack
    forkable: bool = False
    runs: dict[str, Run] = field(default_factory=dict)
    users: int = 0
    _pending: bytes = b""
    _started: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    _listener: asyncio.Task[None] | None = None
    _sending: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    async def start(
        cls, environment: Environment, module: str, room: Path, walls: Walls, *, bare: bool
    ) -> Harness:
        """Start the environment's Python and wait until the executors are imported.

        Must be called on the thread that lives as long as the worker: the kernel ends the process
        when the thread that made it ends.

        Parameters
        ----------
        environment : Environment
            Where the model is installed.
        module : str
            The spec's ``executor_module``, or empty.
        room : Path
            Directory of the runs' own directories: all that this process sees of them.
        walls : Walls
            Those that stand on this machine.
        bare : bool
            Import nothing: each run does so itself.

        Raises
        ------
        ExecutorModuleMissing
            The import failed; carries what it printed.
        ModelFailed
            The import ended the process.
        RunLost
            Something else ended it.
        """
        has_namespaces = NAMESPACES in walls.runs
        # where /proc shows every process of the machine, each may see itself: it counts its threads
        itself = () if has_namespaces else (Path("/proc/self"),)
        confinement = Confinement(
            readable=(HARNESS.parent, SANDBOX, *itself, *environment.parts), writable=(room,)
        )
        inside = {
            "namespaces": has_namespaces,
            "landlock": LANDLOCK in walls.runs,
            "room": str(room),
            "readable": [str(path) for path in confinement.all_readable()],
            "writable": confinement.shared_writable(walls.runs),
        }
        with contextlib.ExitStack() as held:
            held.enter_context(environment.use())
            ours, theirs = socket.socketpair()
            held.callback(ours.close)
            with theirs:
                ours.setblocking(False)
                scratch = held.enter_context(scratch_directory(room / SERVERS))
                output = held.enter_context(tempfile.TemporaryFile())
                command = [
                    str(environment.python), "-P", "-s", str(HARNESS), "serve",
                    "--socket-fd", str(theirs.fileno()), "--parent", str(os.getpid()),
                    "--walls", json.dumps(inside),
                    "--distribution", environment.distribution, "--module", module,
                    *(["--bare"] if bare else []),
                ]  # fmt: skip
                process = await asyncio.create_subprocess_exec(
                    *confinement.server_command(walls, command, scratch),
                    stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                    cwd=scratch, env=clean_environment(environment, str(scratch)),
                    pass_fds=[theirs.fileno()], start_new_session=True,
                )  # fmt: skip
            harness = cls(environment, bare, has_namespaces, process, ours, output, held.pop_all())
        try:
            await harness._wait_until_ready()
        except BaseException:
            await harness.close()
            raise
        harness._listener = asyncio.create_task(harness._listen())
        return harness

    @property
    def alive(self) -> bool:
        """Whether the process can be given runs."""
        has_listener = self._listener is not None and not self._listener.done()
        return has_listener and self.process.returncode is None

    async def run(self, directory: Path, limits: Mapping[str, int], cores: int = 1) -> Run:
        """Start the experiment that ``directory/request.json`` describes.

        Raises
        ------
        HarnessRefused
            The process has more than one thread.
        RunLost
            The process ended before the run had started.
        """
        run = Run(directory.name, self, "fresh" if self.bare else "fork")
        started = asyncio.get_running_loop().create_future()
        ends = await run.listen()
        self.runs[run.id], self._started[run.id] = run, started
        message = {
            "op": "run", "run": run.id, "directory": str(directory),
            "limits": dict(limits), "cores": cores,
        }  # fmt: skip
        try:
            await self._send(message, ends)
            await started
        except BaseException as error:
            # it may have started: nobody would watch it
            await asyncio.shield(self.signal_run(run.id, signal.SIGKILL))
            self.runs.pop(run.id, None)
            if not run.exit.done():
                run.exit.set_result(Exit(None))
            if isinstance(error, OSError):
                raise RunLost("The model's process ended before the run had started.") from error
            raise
        finally:
            _close(ends)
            self._started.pop(run.id, None)
        return run

    async def signal_run(self, run_id: str, signum: int) -> None:
        """Send a signal to a run that has not ended; SIGKILL ends all that it has started."""
        with contextlib.suppress(OSError):
            await self._send({"op": "signal", "run": run_id, "signal": signum})

    async def _send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send one message whole, whoever else sends one."""
        data = json.dumps(message).encode() + b"\n"
        async with self._sending:
            sent = 0
            while not sent:
                try:
                    sent = socket.send_fds(self.channel, [data], list(descriptors))
                except BlockingIOError:
                    await asyncio.sleep(_RETRY_SECONDS)
            await asyncio.get_running_loop().sock_sendall(self.channel, data[sent:])

    async def close(self) -> None:
        """End the process and everything it started; after this, nothing of it is left."""
        _signal_group(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        if self._listener is not None:
            # What left the group may hold a copy of the channel, so its end may never come.
            await asyncio.wait([self._listener], timeout=_DRAIN_SECONDS)
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        self.held.close()

    async def _wait_until_ready(self) -> None:
        for message in await self._receive():
            if message["event"] == "broken":
                raise ExecutorModuleMissing(
                    f"Importing the executors of {self.environment.distribution!r} fails: "
                    f"{message['error']}. Mend the package, or name the module in "
                    f"`executor_module`.",
                    self._output_tail(),
                )
            self.forkable = message["threads"] == 1
            return
        code = await self.process.wait()
        if code == -signal.SIGKILL:
            raise RunLost(f"Python was killed while importing {self.environment.distribution!r}.")
        raise ModelFailed(
            f"Importing the executors of {self.environment.distribution!r} ended the interpreter "
            f"(exit code {code}); import it on your own machine to see why.",
            self._output_tail(),
        )

    async def _listen(self) -> None:
        """Hand the process's messages to the runs they are about, until it is gone."""
        try:
            while messages := await self._receive():
                for message in messages:
                    self._dispatch(message)
        finally:
            _signal_group(self.process.pid, signal.SIGKILL)  # nobody hears it any more
            await self.process.wait()
            self._settle()

    def _settle(self) -> None:
        """Tell those who wait that the process is gone, and end what its runs have left."""
        for started in self._started.values():
            if not started.done():
                started.set_exception(RunLost("The model's process ended before the run started."))
        for run in self.runs.values():
            if run.pid is not None and not self.has_namespaces:  # else the kernel has ended it
                _signal_group(run.pid, signal.SIGKILL)
            if not run.exit.done():
                run.exit.set_result(Exit(None))
        self.runs.clear()

    def _dispatch(self, message: dict[str, Any]) -> None:
        run_id = message["run"]
        started = self._started.get(run_id)
        if message["event"] == "exited" and run_id in self.runs:
            exit_ = Exit(message["code"], message["max_rss_bytes"], message["cpu_seconds"])
            self.runs.pop(run_id).exit.set_result(exit_)
        elif message["event"] == "refused":
            self.forkable = False
            if started is not None and not started.done():
                started.set_exception(HarnessRefused())
        elif message["event"] == "lost" and started is not None and not started.done():
            started.set_exception(RunLost(f"No process for the run: {message['reason']}."))
        elif message["event"] == "started" and run_id in self.runs:
            self.runs[run_id].pid, self.runs[run_id].keeper = message["pid"], message["keeper"]
            if started is not None and not started.done():
                started.set_result(None)

    async def _receive(self) -> list[dict[str, Any]]:
        """Wait for the next messages; an empty list once the process has closed the channel."""
        while True:
            try:
                data = await asyncio.get_running_loop().sock_recv(self.channel, 65_536)
            except OSError:
                return []
            if not data:
                return []
            *lines, self._pending = (self._pending + data).split(b"\n")
            if lines:
                return [json.loads(line) for line in lines]

    def _output_tail(self) -> str:
        size = self.output.seek(0, os.SEEK_END)
        self.output.seek(max(0, size - _TAIL_BYTES))
        return self.output.read().decode("utf-8", "replace").strip()


async def _lines(reader: asyncio.StreamReader, gate: LineGate) -> AsyncIterator[str]:
    """Yield the lines that a gate admits; one that is longer than the limit is cut into several.

    Of what it does not admit only the ends of lines are counted, and the pipe is read slowly
    meanwhile: whoever prints more waits, and this process has time for others.
    """
    pending, is_dropped = b"", False  # of the line that has no end yet
    while chunk := await reader.read(_LONGEST_LINE_BYTES):
        if gate.is_shut():
            has_tail = not chunk.endswith(b"\n")
            gate.admit(chunk.count(b"\n") + has_tail - is_dropped)
            pending, is_dropped = b"", has_tail
            await asyncio.sleep(_BREATH_SECONDS)
            continue
        if is_dropped:
            _, end, chunk = chunk.partition(b"\n")
            is_dropped = not end
        *lines, pending = (pending + chunk).split(b"\n")
        while len(pending) > _LONGEST_LINE_BYTES:
            lines.append(pending[:_LONGEST_LINE_BYTES])
            pending = pending[_LONGEST_LINE_BYTES:]
        for line in lines[: gate.admit(len(lines))]:
            yield _text(line)
    if pending and gate.admit(1):
        yield _text(pending)


def _text(line: bytes) -> str:
    """Decode a line; PostgreSQL's text holds no NUL."""
    return line.decode("utf-8", "replace").rstrip("\r").replace("\0", "\N{SYMBOL FOR NULL}")


def _event(line: str) -> RunEvent | None:
    """Read a line of the events' pipe; what is no event of ours is dropped."""
    try:
        message = json.loads(line)
        if message["event"] == "phase":
            return PhaseStarted(message["phase"]) if message["phase"] in PHASES else None
        progress = Progress(*(float(message[name]) for name in ("time", "start", "end")))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    is_number = all(map(math.isfinite, (progress.time, progress.start, progress.end)))
    return progress if is_number and progress.start < progress.end else None


def _signal_group(leader: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signum)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
