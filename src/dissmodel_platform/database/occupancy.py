"""Who is at work on an embedded server's directory: one owner, one PostgreSQL, or nobody.

Two file locks tell, and not the number in ``postmaster.pid``: that outlives a killed server and may
be another process's by now. The kernel drops a lock with its last holder, also after SIGKILL.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dissmodel_platform.errors import DatabaseError

_PREDECESSOR_SECONDS = 30.0
_POLL_SECONDS = 0.02
_ANSWER_SECONDS = 5.0


def own(directory: Path) -> int:
    """Become the one process that runs the server on a directory.

    Parameters
    ----------
    directory : path
        ``PLATFORM_HOME/pg``.

    Returns
    -------
    int
        A descriptor; close it to let go.

    Raises
    ------
    DatabaseError
        Another process is that one.
    """
    lock = _open(directory / "owner.lock")
    try:
        _refuse_second(lock, directory)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    except BaseException:
        os.close(lock)
        raise
    return lock


@contextmanager
def no_other_server(directory: Path, data: Path) -> Iterator[int]:
    """Make sure that no process of an earlier server is left, and hand out the proof.

    The proof is a locked descriptor that PostgreSQL inherits, so that the lock lasts as long as
    any process of that server. A server whose owner was killed needs a moment to stop; where the
    kernel has not told it to, it is told here. Call this as the owner.

    Parameters
    ----------
    directory : path
        ``PLATFORM_HOME/pg``.
    data : path
        The cluster; need not exist.

    Raises
    ------
    DatabaseError
        An earlier server does not end, or one that somebody else started is at work.
    """
    lock = _open(directory / "server.lock")
    try:
        if not _try_lock(lock):
            _await_predecessor(lock, data)
        pid = _listening(data)
        if pid is not None:
            raise DatabaseError(
                f"{data} is already in use by a PostgreSQL that dissmodel-platform did not start "
                f"(process {pid}). Stop that one first."
            )
        yield lock
    finally:
        os.close(lock)


def _refuse_second(lock: int, directory: Path) -> None:
    if not _try_lock(lock):
        holder = os.read(lock, 20).decode(errors="replace") or "unknown"
        raise DatabaseError(
            f"The embedded database in {directory} is already in use by another "
            f"dissmodel-platform (process {holder}). Stop that one first, or set PLATFORM_HOME to "
            "another directory."
        )


def _await_predecessor(lock: int, data: Path) -> None:
    pid = _listening(data)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + _PREDECESSOR_SECONDS
    while not _try_lock(lock):
        if time.monotonic() > deadline:
            raise DatabaseError(
                f"An earlier PostgreSQL still runs on {data} (process {pid or 'unknown'}). End it "
                "with `kill -INT`, then start again."
            )
        time.sleep(_POLL_SECONDS)


def _listening(data: Path) -> int | None:
    """Return the process id in ``postmaster.pid`` if a server really listens where that says."""
    try:
        lines = (data / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
        pid, claimed, port, sockets = int(lines[0]), lines[1], lines[3], lines[4]
        if not Path(claimed).samefile(data):  # we are a copy of that one
            return None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_ANSWER_SECONDS)
            client.connect(f"{sockets}/.s.PGSQL.{port}")
    except (OSError, ValueError, IndexError):
        return None
    return pid


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
