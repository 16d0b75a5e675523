"""Connections to PostgreSQL: one pool per process, opened at the edge and passed down."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
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

# Either end notices within about a minute that the other one is gone without a word: a machine
# that lost its power, a firewall that forgot. By default that takes two hours.
_IDLE_SECONDS, _INTERVAL_SECONDS, _PROBES = 30, 10, 3
_KEEPALIVES = {
    "keepalives_idle": _IDLE_SECONDS,
    "keepalives_interval": _INTERVAL_SECONDS,
    "keepalives_count": _PROBES,
}


class Database:
    """The pool of one process.

    Parameters
    ----------
    url : str
        libpq address of the server.
    max_connections : int
        Upper bound of the connections this process holds.
    """

    def __init__(self, url: str, *, max_connections: int = 10) -> None:
        self._url = with_keepalives(url)
        self.pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._url,
            connection_class=AsyncConnection[DictRow],
            kwargs={"row_factory": dict_row, "application_name": "dissmodel-platform"},
            min_size=1,
            max_size=max_connections,
            open=False,
            check=AsyncConnectionPool.check_connection,
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
    async def transaction(self) -> AsyncIterator[Connection]:
        """Borrow a connection for one transaction: committed at the end, undone on an error.

        Raises
        ------
        DatabaseError
            No connection is to be had.
        """
        try:
            async with self.pool.connection() as connection:
                yield connection
        except PoolTimeout as error:
            raise DatabaseError("PostgreSQL gave no connection in time; try again.") from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
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
        async with self.transaction() as connection:
            await connection.set_autocommit(True)
            try:
                await execute(
                    connection,
                    """
                    SELECT set_config('tcp_keepalives_idle', %(idle)s::text, false),
                           set_config('tcp_keepalives_interval', %(interval)s::text, false),
                           set_config('tcp_keepalives_count', %(count)s::text, false)
                    """,
                    idle=_IDLE_SECONDS,
                    interval=_INTERVAL_SECONDS,
                    count=_PROBES,
                )
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


def with_keepalives(url: str) -> str:
    """Return an address whose connections are probed while they are idle, as far as it says none.

    An address that cannot be read is left as it is; connecting says what is wrong with it.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return url
    return make_conninfo(url, **{k: v for k, v in _KEEPALIVES.items() if k not in given})


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
