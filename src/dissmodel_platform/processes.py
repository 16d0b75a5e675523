"""Processes that must not outlive the one that started them.

Two ways, one for each kind of program:

- our own roles call `die_with_parent` (or `die_with_supervisor`) when they start;
- a foreign program (PostgreSQL) is started as a `BoundProcess`: a short-lived launcher, which is
  this very file run as a script, binds itself to us, drops rights and then becomes the program.

On Linux the kernel does the ending (``PR_SET_PDEATHSIG``), so that it also happens when the parent
is killed by SIGKILL. Elsewhere `die_with_parent` looks after the parent from a thread, and a
`BoundProcess` is bound by nothing: whoever starts one there must find a forgotten one at the next
start.

The launcher runs as ``python -I -S``, without any site directory, to start in about 10 ms; that is
why this module imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

SUPERVISOR_VARIABLE = "DISSMODEL_SUPERVISOR_PID"
"""Environment variable in which a supervisor tells its roles its process id."""

_PR_SET_PDEATHSIG = 1  # these five: linux/prctl.h
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_POLL_SECONDS = 0.5
_CANNOT_LAUNCH = 126  # the shell's code for "found, but cannot be executed"


def die_with_parent(parent_pid: int, signum: int = signal.SIGTERM) -> None:
    """Have this process signalled when its parent ends, however the parent ends.

    Call it from the main thread, early: the setting belongs to the calling thread and goes away
    with it. If the parent has ended already, the signal is raised at once.

    On Linux "the parent ends" means that the *thread* of the parent that started this process
    ends, and the setting is lost when the process changes its user or executes a privileged
    program (prctl(2)). Elsewhere a thread looks twice a second whether the parent is still there.

    Parameters
    ----------
    parent_pid : int
        Process id of the parent, as the parent stated it when it started this process.
    signum : int
        The signal to get; its handler, if any, runs as for any other sender.

    Raises
    ------
    OSError
        The kernel refuses the setting.
    """
    if sys.platform.startswith("linux"):
        _prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent_pid:  # it ended before the kernel knew of our wish
            signal.raise_signal(signum)
    else:
        _follow(parent_pid, signum)


def die_with_supervisor(signum: int = signal.SIGTERM) -> None:
    """Have this process signalled when its supervisor ends; does nothing without a supervisor.

    The supervisor's process id is taken out of the environment (`SUPERVISOR_VARIABLE`): it is meant
    for this process, and not for those that this one starts.

    Raises
    ------
    ValueError
        The variable does not hold a process id.
    """
    stated = os.environ.pop(SUPERVISOR_VARIABLE, None)
    if stated is None:
        return
    if not stated.isdecimal():
        raise ValueError(f"{SUPERVISOR_VARIABLE}={stated!r} is not a process id; unset it.")
    die_with_parent(int(stated), signum)


@dataclass(frozen=True)
class Account:
    """Whom a program runs as, when not as ourselves; only root can choose.

    Parameters
    ----------
    uid, gid : int
        Numbers of user and group; neither needs a name on this machine.
    capability : int or None
        The one Linux capability (capabilities(7)) that the program keeps; ``None``: none at all.
    """

    uid: int
    gid: int
    capability: int | None = None


class BoundProcess:
    """A child that the kernel signals when this process ends (Linux), in a session of its own.

    It is started from a thread that lives until `release`, so it does not matter which thread
    makes this object or how long that one lives.

    Parameters
    ----------
    command : sequence of str
        Absolute path of the program, and its arguments.
    death_signal : int
        What the child gets when this process ends.
    environment : mapping of str to str
        The child's whole environment.
    output : file or int
        Where its standard output and error go; standard input is empty.
    account : Account or None
        Whom it runs as; ``None``: as this process. Signals to another account, the kernel's death
        signal included, need ``CAP_KILL``.
    pass_fds : sequence of int
        Descriptors that stay open in the child.
    cwd : path
        Where it works; the root by default, as ours may be closed to another account.

    Raises
    ------
    OSError
        The launcher cannot be started. (Where the launcher cannot start the program, it says so
        in `output` and ends with code 126.)
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        death_signal: int,
        environment: Mapping[str, str],
        output: IO[bytes] | int,
        account: Account | None = None,
        pass_fds: Sequence[int] = (),
        cwd: Path | str = "/",
    ) -> None:
        self._started = threading.Event()
        self._released = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._error: BaseException | None = None

        def keep() -> None:
            try:
                self._process = subprocess.Popen(
                    _launcher(command, death_signal, account),
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    start_new_session=True,
                    pass_fds=tuple(pass_fds),
                )
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self._error = error
            self._started.set()
            self._released.wait()

        keeper = threading.Thread(target=keep, name=f"keep {Path(command[0]).name}", daemon=True)
        keeper.start()
        try:
            self._started.wait()
        except BaseException:  # interrupted: nobody would know the child
            self._started.wait()
            self.end(signal.SIGKILL)
            raise
        if self._error is not None:
            self.release()
            raise self._error

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child; wait for it and signal it through this."""
        assert self._process is not None
        return self._process

    def wait(self, timeout_seconds: float) -> int | None:
        """Return the child's exit code, or ``None`` if it has not ended in that time.

        Where the kernel can tell of the end (Linux), this does not look in intervals.
        """
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(ProcessLookupError):  # somebody has reaped it
                descriptor = os.pidfd_open(self.process.pid)
                try:
                    poll = select.poll()
                    poll.register(descriptor, select.POLLIN)
                    poll.poll(timeout_seconds * 1000)
                finally:
                    os.close(descriptor)
            return self.process.poll()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout_seconds)
        return None

    def end(self, *signals: int, patience_seconds: float = 5.0) -> int | None:
        """Send one signal after the other until the child ends; then reap and release it.

        Every signal but the last is given `patience_seconds`; after the last one this waits for
        as long as it takes.

        Returns
        -------
        int or None
            The child's exit code; negative: the signal that ended it.
        """
        process = self._process
        if process is not None:
            for signum in signals[:-1]:
                process.send_signal(signum)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience_seconds)
                    break
            else:
                process.send_signal(signals[-1])
                process.wait()
        self.release()
        return None if process is None else process.returncode

    def release(self) -> None:
        """Let go of the child; a child that still runs gets its death signal (Linux)."""
        self._released.set()


def _follow(parent_pid: int, signum: int) -> None:
    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signum)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def _launcher(command: Sequence[str], death_signal: int, account: Account | None) -> list[str]:
    rights = "-"
    if account is not None:
        capability = "-" if account.capability is None else account.capability
        rights = f"{account.uid}:{account.gid}:{capability}"
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    return [*launcher, str(os.getpid()), str(int(death_signal)), rights, *command]


def _become(account: Account) -> None:
    """Give up everything that the account does not have; there is no way back."""
    if account.capability is not None:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)  # as root: the real, effective and saved one at once
    if sys.platform.startswith("linux"):
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if account.capability is not None:
        _keep_only(account.capability)


def _keep_only(capability: int) -> None:
    """Keep one capability over the coming exec.

    An ambient capability, because the program's file has none of its own; it does not make the
    exec a privileged one, so the dynamic linker and the death signal work as usual.
    """
    low, high = (1 << capability) & 0xFFFFFFFF, (1 << capability) >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = struct.pack("=6I", low, low, low, high, high, high)  # effective, permitted, inheritable
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, sets) != 0:
        raise _os_error()
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *padded) != 0:
        raise _os_error()


def _os_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _launch(parent: str, death_signal: str, rights: str, *command: str) -> NoReturn:
    """Bind this process to its parent, drop rights, become the program."""
    os.umask(0o077)
    for signum in (signal.SIGINT, signal.SIGPIPE):  # the interpreter has its own ideas of these
        signal.signal(signum, signal.SIG_DFL)
    try:
        if rights != "-":
            uid, gid, capability = rights.split(":")
            kept = None if capability == "-" else int(capability)
            _become(Account(int(uid), int(gid), kept))
        if sys.platform.startswith("linux"):  # after the change of user, which clears it
            die_with_parent(int(parent), int(death_signal))
        os.execv(command[0], command)  # noqa: S606 - an argument list, as everywhere
    except OSError as error:
        print(f"cannot run {command[0]} as {rights}: {error}", file=sys.stderr)
        sys.exit(_CANNOT_LAUNCH)


if __name__ == "__main__":
    _launch(*sys.argv[1:])
