"""A network between this machine's processes and PostgreSQL that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_CHUNK_BYTES = 65_536


class Cut:
    """A proxy on a port of 127.0.0.1 that forwards to PostgreSQL's socket.

    Parameters
    ----------
    url : str
        The database, at a socket directory of this machine.
    """

    def __init__(self, url: str) -> None:
        self._target = url
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.break_off()

    @property
    def url(self) -> str:
        """Address of the same database through the proxy."""
        return make_conninfo(self._target, host="127.0.0.1", port=self._port, sslmode="disable")

    def stop(self) -> None:
        """Let nothing pass from now on; every connection stays open, as where packets are lost."""
        self._passing.clear()

    def go_on(self) -> None:
        """Let pass again, what was sent meanwhile included."""
        self._passing.set()

    async def break_off(self) -> None:
        """Close every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def mend(self) -> None:
        """Accept connections (again)."""
        self._passing.set()
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        place = conninfo_to_dict(self._target)
        path = f"{place['host']}/.s.PGSQL.{place.get('port', 5432)}"
        # a handler of asyncio's server must not end as cancelled
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
            theirs, ours = await asyncio.open_unix_connection(path)
            with contextlib.closing(ours):
                there = asyncio.create_task(self._forward(reader, ours))
                back = asyncio.create_task(self._forward(theirs, writer))
                try:
                    await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    there.cancel()
                    back.cancel()
        self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                await self._passing.wait()
                writer.write(chunk)
                await writer.drain()
