"""Keep a fixed set of processes running on one machine, and end all of them together.

The supervisor owns its process's signals while it runs: a handler only notes a signal and wakes
the loop through a socket (``signal.set_wakeup_fd``), so that none is missed between looking and
waiting, and no exception ever interrupts starting or stopping a process.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from dissmodel_platform.errors import PlatformError
from dissmodel_platform.processes import SUPERVISOR_VARIABLE

logger = logging.getLogger(__name__)

_WATCH_SECONDS = 0.25
_HURRY_SECONDS = 3.0  # what a second request to stop leaves of the grace
_REAP_SECONDS = 10.0  # how long SIGKILL may take: a process can be stuck in the kernel


@dataclass(frozen=True)
class Role:
    """One process to keep running.

    Parameters
    ----------
    name : str
        What the log calls it.
    command : list of str
        The program and its arguments; it is the role itself, no wrapper that starts it.
    environment : mapping of str to str
        Its whole environment, but for the supervisor's process id (see
        `processes.die_with_supervisor`), which is added.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class BackOff:
    """How long a role that died has to wait.

    Parameters
    ----------
    first_seconds : float
        Pause before the first restart; each further one is twice as long.
    longest_seconds : float
        The longest pause.
    settled_seconds : float
        A role that lived this long counts as well: its next pause is the first one again.
    """

    first_seconds: float = 0.5
    longest_seconds: float = 30.0
    settled_seconds: float = 10.0

    def pause_seconds(self, failures: int) -> float:
        """Return the pause after so many deaths in a row, in seconds."""
        exponent = min(failures - 1, 30)  # beyond that every pause is the longest
        return min(self.first_seconds * 2.0**exponent, self.longest_seconds)


class Supervisor:
    """Starts the roles, restarts those that die, stops all of them.

    Parameters
    ----------
    roles : sequence of Role
        Started in this order, stopped in the reverse one.
    stop_grace_seconds : float
        Time between asking the roles to end (TERM) and ending them (KILL).
    on_exit : callable, optional
        Called with role, process id and return code (negative: a signal) as soon as a role has
        ended, also while stopping. The loop waits for it; what it raises is logged.
    watch : callable, optional
        Called about four times a second; what it raises ends everything, and `run`.
    back_off : BackOff
        How long a role that died has to wait.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        *,
        stop_grace_seconds: float,
        on_exit: Callable[[Role, int, int], None] | None = None,
        watch: Callable[[], None] | None = None,
        back_off: BackOff | None = None,
    ) -> None:
        self._slots = [_Slot(role) for role in roles]
        self._stop_grace_seconds = stop_grace_seconds
        self._on_exit = on_exit
        self._watch = watch
        self._back_off = back_off or BackOff()

    def run(self) -> int:
        """Run the roles until TERM, INT or HUP arrives; to be called from the main thread.

        A second signal is passed on to the roles, which then wait for nothing, and leaves them at
        most a few more seconds. When this returns or raises,
        every role has been reaped, what was left of its process group has been killed, and the
        signal handlers are the former ones. A process that left its role's group is the role's to
        end.

        Returns
        -------
        int
            Exit code: 0.

        Raises
        ------
        PlatformError
            A role's program cannot be started at all.
        Exception
            Whatever `watch` raised.
        """
        with _Signals() as signals:
            try:
                self._start_all(signals)
                while not signals.stop_requests:
                    if self._watch is not None:
                        self._watch()
                    self._reap()
                    self._restart()
                    signals.wait(self._seconds_to_next_look())
            finally:
                self._stop_all(signals)
        return 0

    def _start_all(self, signals: _Signals) -> None:
        for slot in self._slots:
            if signals.stop_requests:
                return
            try:
                slot.start()
            except OSError as error:
                raise PlatformError(
                    f"The {slot.role.name} role cannot be started: {error}. Check the command "
                    f"{slot.role.command[0]!r}."
                ) from error

    def _restart(self) -> None:
        for slot in self._slots:
            if slot.process is None and slot.restart_at <= time.monotonic():
                try:
                    slot.start()
                except OSError as error:  # for instance: being installed anew just now
                    pause = slot.note_failure(self._back_off)
                    logger.warning(
                        "%s cannot be started (%s); next try in %.1f s",
                        slot.role.name,
                        error,
                        pause,
                    )

    def _reap(self, level: int = logging.WARNING) -> None:
        """Take notice of every role that has ended, and log it at this level."""
        for slot in self._slots:
            process = slot.process
            if process is None or not _has_ended(process):
                continue
            _kill_group(process)  # before reaping: until then nobody else gets this number
            code = process.wait()
            pause = slot.note_failure(self._back_off)
            logger.log(level, "%s (process %d) ended: code %d", slot.role.name, process.pid, code)
            logger.debug("%s may start again in %.1f s", slot.role.name, pause)
            self._tell(slot.role, process.pid, code)

    def _tell(self, role: Role, pid: int, code: int) -> None:
        if self._on_exit is None:
            return
        try:
            self._on_exit(role, pid, code)
        except Exception:
            logger.exception("What follows the end of %s (process %d) failed", role.name, pid)

    def _seconds_to_next_look(self) -> float:
        waiting = [slot.restart_at for slot in self._slots if slot.process is None]
        soonest = min(waiting, default=float("inf")) - time.monotonic()
        return min(_WATCH_SECONDS, max(soonest, 0.0))

    def _stop_all(self, signals: _Signals) -> None:
        requests = signals.stop_requests
        deadline = time.monotonic() + self._stop_grace_seconds
        self._reap(logging.INFO)
        self._ask_to_end()
        while any(slot.process for slot in self._slots):
            now = time.monotonic()
            if signals.stop_requests > requests:
                requests = signals.stop_requests
                deadline = min(deadline, now + _HURRY_SECONDS)
                self._ask_to_end()
            if now >= deadline:
                break
            signals.wait(min(deadline - now, _WATCH_SECONDS))
            self._reap(logging.INFO)
        self._kill_all()

    def _ask_to_end(self) -> None:
        for slot in reversed(self._slots):
            if slot.process is not None:  # not reaped, so the number is still its own
                os.kill(slot.process.pid, signal.SIGTERM)

    def _kill_all(self) -> None:
        remaining = [slot.process for slot in self._slots if slot.process is not None]
        for process in remaining:
            _kill_group(process)
        deadline = time.monotonic() + _REAP_SECONDS
        while any(slot.process for slot in self._slots) and time.monotonic() < deadline:
            self._reap(logging.INFO)
            time.sleep(0.005)
        for process in (slot.process for slot in self._slots if slot.process is not None):
            logger.error("Process %d does not end, not even when killed", process.pid)


class _Slot:
    """A role and the process that it is at the moment."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.process: subprocess.Popen[bytes] | None = None
        self.restart_at = 0.0
        self._failures = 0
        self._started_at = 0.0

    def start(self) -> None:
        """Start the role, out of reach of the terminal's Ctrl-C, which is meant for us."""
        self._started_at = time.monotonic()
        self.process = subprocess.Popen(
            self.role.command,
            env={**self.role.environment, SUPERVISOR_VARIABLE: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def note_failure(self, back_off: BackOff) -> float:
        """Forget the process that has ended; return the pause before the next one, in seconds."""
        now = time.monotonic()
        if now - self._started_at >= back_off.settled_seconds:
            self._failures = 0
        self._failures += 1
        self.process = None
        pause = back_off.pause_seconds(self._failures)
        self.restart_at = now + pause
        return pause


class _Signals:
    """The process's signals, while the supervisor runs."""

    def __init__(self) -> None:
        self.stop_requests = 0
        self._reader, self._writer = socket.socketpair()
        self._former: dict[int, Any] = {}
        self._former_descriptor = -1

    def __enter__(self) -> Self:
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._former_descriptor = signal.set_wakeup_fd(
            self._writer.fileno(), warn_on_full_buffer=False
        )
        wanted = {signal.SIGTERM: self._request, signal.SIGINT: self._request}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # that would be nohup
            wanted[signal.SIGHUP] = self._request
        wanted[signal.SIGCHLD] = self._wake
        for signum, handler in wanted.items():
            self._former[signum] = signal.signal(signum, handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._former.items():
            if handler is not None:  # None: not installed from Python, so not ours to restore
                signal.signal(signum, handler)
        signal.set_wakeup_fd(self._former_descriptor)
        self._reader.close()
        self._writer.close()

    def wait(self, seconds: float) -> None:
        """Return when a signal has arrived since the last call, or the time is over."""
        select.select([self._reader], [], [], seconds)
        with suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.stop_requests += 1

    def _wake(self, signum: int, frame: FrameType | None) -> None:
        """Do nothing: the C handler has written to the socket already."""


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended, without reaping it where the system can tell that apart."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return process.poll() is not None
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, options) is not None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of a role's group, its leader included."""
    with suppress(ProcessLookupError, PermissionError):  # empty, or only a zombie (macOS)
        os.killpg(process.pid, signal.SIGKILL)
