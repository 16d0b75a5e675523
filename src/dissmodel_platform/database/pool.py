"""Connections to PostgreSQL: one pool per process, opened at the edge and passed down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from dissmodel_platform.errors import DatabaseError

Connection = AsyncConnection[DictRow]
"""A connection whose rows are dictionaries."""

# The last one is what the server says to a session that did nothing inside a transaction.
_BROKEN_OFF = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,
)

# Either end notices within about half a minute that the other one is gone without a word: a machine
# that lost its power, a firewall that forgot. By default that takes two hours. What was sent and is
# not acknowledged is given up sooner.
_IDLE_SECONDS, _INTERVAL_SECONDS, _PROBES = 10, 5, 3
_UNACKNOWLEDGED_SECONDS = 15
_CONNECT_SECONDS = 5
_OUR_SIDE = {
    "keepalives_idle": _IDLE_SECONDS,
    "keepalives_interval": _INTERVAL_SECONDS,
    "keepalives_count": _PROBES,
    "tcp_user_timeout": _UNACKNOWLEDGED_SECONDS * 1000,
    "connect_timeout": _CONNECT_SECONDS,
}
IDLE_IN_TRANSACTION_SECONDS = 10
"""How long a session may do nothing inside a transaction: a process that was stopped there keeps
its locks, and would stop all others."""

_SERVER_SIDE = {
    "tcp_keepalives_idle": str(_IDLE_SECONDS),
    "tcp_keepalives_interval": str(_INTERVAL_SECONDS),
    "tcp_keepalives_count": str(_PROBES),
    "tcp_user_timeout": f"{_UNACKNOWLEDGED_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS}s",
}
# Tries to connect come 0, 1 and 3 s after the first one, then all over again: by default the pauses
# grow for five minutes, and a database that is back would be away for as long as it had been.
_RECONNECT_SECONDS = 2.0


class Database:
    """The pool of one process.

    Parameters
    ----------
    url : str
        libpq address of the server.
    max_connections : int
        Upper bound of the connections this process holds.
    transaction_seconds : float, optional
        Longest time of one transaction, after which its connection is cut off: a server, or a
        proxy before it, that has stopped acknowledges what it never answers. Unset: no limit.
    """

    def __init__(
        self, url: str, *, max_connections: int = 10, transaction_seconds: float | None = None
    ) -> None:
        self._url = with_timeouts(url)
        self._transaction_seconds = transaction_seconds
        self.pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._url,
            connection_class=AsyncConnection[DictRow],
            kwargs={"row_factory": dict_row, "application_name": "dissmodel-platform"},
            min_size=1,
            max_size=max_connections,
            open=False,
            configure=_configure,
            check=_check,
            reconnect_timeout=_RECONNECT_SECONDS,
            reconnect_failed=AsyncConnectionPool.check,  # begins anew where nobody has a connection
        )

    async def open(self, *, timeout_seconds: float = 10.0) -> None:
        """Connect; after this, callers can assume that the server has answered once.

        Raises
        ------
        DatabaseError
            The server does not answer within ``timeout_seconds``.
        """
        try:
            await self.pool.open(wait=True, timeout=timeout_seconds)
        except PoolTimeout as error:
            await self.pool.close()
            raise DatabaseError(
                "PostgreSQL does not answer; check DATABASE_URL, or start everything with "
                "`dissmodel-platform up`."
            ) from error

    async def close(self) -> None:
        """Give all connections back to the server."""
        await self.pool.close()

    @asynccontextmanager
    async def transaction(self, *, is_long: bool = False) -> AsyncIterator[Connection]:
        """Borrow a connection for one transaction: committed at the end, undone on an error.

        Parameters
        ----------
        is_long : bool
            Whether it may take longer than this process's transactions do.

        Raises
        ------
        DatabaseError
            No connection is to be had, or the one there was broke off or was cut off. Whether a
            transaction that was about to end has been committed, nobody knows then.
        """
        limit_seconds = None if is_long else self._transaction_seconds
        try:
            async with self.pool.connection() as connection:
                with _cut_off_after(limit_seconds, connection):
                    yield connection
                    if not connection.closed:
                        await connection.commit()
        except PoolTimeout as error:
            raise DatabaseError("PostgreSQL gave no connection in time; try again.") from error
        except _BROKEN_OFF as error:
            raise DatabaseError(f"PostgreSQL broke off: {error}") from error

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Listener]:
        """Listen to a channel on a connection of its own while the block runs.

        Raises
        ------
        DatabaseError
            PostgreSQL does not answer.
        """
        try:
            connection = await AsyncConnection.connect(self._url, autocommit=True)
        except psycopg.OperationalError as error:
            raise DatabaseError(f"PostgreSQL does not answer: {error}") from error
        async with connection:
            try:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            except psycopg.OperationalError as error:
                raise DatabaseError(f"PostgreSQL broke off: {error}") from error
            yield Listener(connection)

    @asynccontextmanager
    async def exclusive(self, lock: int) -> AsyncIterator[None]:
        """Hold an advisory lock, on a connection of its own, while the block runs.

        Of all processes on all hosts one is inside; the others wait. A holder that dies lets go,
        and so does one whose connection breaks: it goes on without knowing, so what it writes in
        the end needs a check of its own. The lock belongs to the server's session: behind a pooler
        the address must lead to one session per connection.
        """
        async with self.transaction(is_long=True) as connection:
            await connection.set_autocommit(True)
            try:
                await execute(connection, "SELECT pg_advisory_lock(%(lock)s)", lock=lock)
                try:
                    yield
                finally:
                    # a connection that broke has let go by itself
                    with contextlib.suppress(psycopg.OperationalError, psycopg.InterfaceError):
                        await execute(connection, "SELECT pg_advisory_unlock(%(lock)s)", lock=lock)
            finally:
                if not connection.closed:
                    await connection.set_autocommit(False)

    async def fetch_all(self, query: str, **parameters: Any) -> list[DictRow]:
        """Run one statement and return its rows."""
        async with self.transaction() as connection:
            return await fetch_all(connection, query, **parameters)

    async def fetch_one(self, query: str, **parameters: Any) -> DictRow | None:
        """Run one statement and return its first row."""
        async with self.transaction() as connection:
            return await fetch_one(connection, query, **parameters)

    async def execute(self, query: str, **parameters: Any) -> int:
        """Run one statement and return how many rows it touched."""
        async with self.transaction() as connection:
            return await execute(connection, query, **parameters)


class Listener:
    """Waits for notifications of one channel."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection

    async def wait(self, seconds: float) -> bool:
        """Wait for a notification; false when none came in time.

        Raises
        ------
        DatabaseError
            The connection broke.
        """
        return bool(await self.payloads(seconds))

    async def payloads(self, seconds: float) -> list[str]:
        """Wait for notifications and return what they carry; none when none came in time.

        Raises
        ------
        DatabaseError
            The connection broke.
        """
        try:
            return [
                notification.payload
                async for notification in self._connection.notifies(timeout=seconds, stop_after=1)
            ]
        except psycopg.OperationalError as error:
            raise DatabaseError(f"PostgreSQL broke off: {error}") from error


def with_timeouts(url: str) -> str:
    """Return an address whose connections notice a server that is gone, as far as it says nothing.

    An address that cannot be read is left as it is; connecting says what is wrong with it.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return url
    return make_conninfo(url, **{k: v for k, v in _OUR_SIDE.items() if k not in given})


async def _configure(connection: Connection) -> None:
    """Have the server notice that we are gone, or have stopped in the middle of something.

    After connecting, since poolers refuse settings that come with the connection.
    """
    await connection.set_autocommit(True)
    names = sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, false)").format(name, value)
        for name, value in _SERVER_SIDE.items()
    )
    with _cut_off_after(_CONNECT_SECONDS, connection):
        await connection.execute(sql.SQL("SELECT {}").format(names))
    await connection.set_autocommit(False)


async def _check(connection: Connection) -> None:
    """See that a connection that lay in the pool still answers."""
    with _cut_off_after(_CONNECT_SECONDS, connection):
        await AsyncConnectionPool.check_connection(connection)


@contextlib.contextmanager
def _cut_off_after(seconds: float | None, connection: Connection) -> Iterator[None]:
    """End a connection whose work is not over in time; whoever waits for its answer gets an error.

    Cancelling would ask the server, which does not answer either, and wait for it.
    """
    if seconds is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(seconds, _cut_off, connection)
    try:
        yield
    finally:
        timer.cancel()


def _cut_off(connection: Connection) -> None:
    with (
        contextlib.suppress(OSError, psycopg.OperationalError),
        socket.socket(fileno=os.dup(connection.fileno())) as ours,
    ):
        ours.shutdown(socket.SHUT_RDWR)


async def fetch_all(connection: Connection, query: str, **parameters: Any) -> list[DictRow]:
    """Run one statement on a borrowed connection and return its rows."""
    cursor = await connection.execute(query.encode(), parameters)
    return await cursor.fetchall()


async def fetch_one(connection: Connection, query: str, **parameters: Any) -> DictRow | None:
    """Run one statement on a borrowed connection and return its first row."""
    cursor = await connection.execute(query.encode(), parameters)
    return await cursor.fetchone()


async def execute(connection: Connection, query: str, **parameters: Any) -> int:
    """Run one statement on a borrowed connection and return how many rows it touched."""
    cursor = await connection.execute(query.encode(), parameters)
    return cursor.rowcount
