"""Follow experiments: what is kept of them is read in order, and new entries wake who waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.types import ExperimentStatus

log = logging.getLogger(__name__)

CHANNEL = "experiment_events"
"""Each notification's payload is the id of an experiment that has something new."""

_BATCH = 500
_BATCH_BYTES = 262_144
_LISTEN_SECONDS = 60.0
_RECONNECT_SECONDS = 1.0


@dataclass(frozen=True)
class HistoryEntry:
    """One entry of an experiment's history.

    Attributes
    ----------
    seq : int
        Its place: those of one experiment grow, with gaps.
    at : datetime
        When it happened, by the database's clock.
    attempt : int
        Which attempt told it; 0 before the first.
    kind : str
        ``log``, ``phase``, ``progress`` or ``status``.
    content : dict
        ``stream`` and ``text`` of a log line; else what the event tells.
    """

    seq: int
    at: datetime
    attempt: int
    kind: Literal["log", "phase", "progress", "status"]
    content: dict[str, Any]

    @property
    def is_last(self) -> bool:
        """Whether nothing follows any more."""
        return self.kind == "status" and ExperimentStatus(self.content["status"]).is_final


async def read_history(database: Database, experiment_id: str, after: int) -> list[HistoryEntry]:
    """Return the entries behind a place, in order: the first few hundred, of bounded size.

    An empty list means that there is nothing more for now.
    """
    rows = await database.fetch_all(
        """
        SELECT * FROM (
            SELECT *, sum(octet_length(coalesce(text, ''))) OVER (ORDER BY seq) AS bytes,
                   row_number() OVER (ORDER BY seq) AS number
            FROM (
                (SELECT seq, at, attempt, 'log' AS kind, stream, line AS text,
                        NULL::jsonb AS content
                 FROM experiment_logs WHERE experiment_id = %(id)s AND seq > %(after)s
                 ORDER BY seq LIMIT %(most)s)
                UNION ALL
                (SELECT seq, at, attempt, kind, NULL, NULL, content
                 FROM experiment_events WHERE experiment_id = %(id)s AND seq > %(after)s
                 ORDER BY seq LIMIT %(most)s)
                ORDER BY seq LIMIT %(most)s
            ) AS found
        ) AS measured
        WHERE bytes <= %(most_bytes)s OR number = 1
        ORDER BY seq
        """,
        id=experiment_id,
        after=after,
        most=_BATCH,
        most_bytes=_BATCH_BYTES,
    )
    return [
        HistoryEntry(
            row["seq"],
            row["at"],
            row["attempt"],
            row["kind"],
            row["content"] or {"stream": row["stream"], "text": row["text"]},
        )
        for row in rows
    ]


class Feed:
    """Wakes those who follow experiments; one connection listens for all of them."""

    poll_seconds = 5.0
    """How often a follower looks by itself, though it would be woken."""

    blind_poll_seconds = 0.5
    """The same while nobody listens, since the connection broke."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._bells: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._is_listening = False
        self._is_closed = False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen while the block runs."""
        listener = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            self.close()
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    def close(self) -> None:
        """End everything that is being followed."""
        self._is_closed = True
        self._ring(*self._bells)

    @property
    def followers(self) -> int:
        """How many follow an experiment now."""
        return sum(map(len, self._bells.values()))

    async def follow(
        self, experiment_id: str, after: int, *, idle_seconds: float
    ) -> AsyncGenerator[list[HistoryEntry], None]:
        """Yield what is kept of an experiment and then what comes, up to its final state.

        Nothing is read before the batch before it is dealt with, and between two reads nothing is
        kept of what happened.

        Parameters
        ----------
        after : int
            Place of the last entry that is known already; 0: none is.
        idle_seconds : float
            An empty batch says at least so often that nothing happens, and after a break.
        """
        loop = asyncio.get_running_loop()
        with self._subscribed(experiment_id) as bell:
            told_at = loop.time()
            while not self._is_closed:
                bell.clear()
                batch = await self._read(experiment_id, after)
                if batch or loop.time() - told_at >= idle_seconds:
                    yield batch
                    told_at = loop.time()
                if batch:
                    after = batch[-1].seq
                    if batch[-1].is_last:
                        return
                    continue
                if not await self._wait(bell, idle_seconds) and await self._is_gone(experiment_id):
                    return

    async def _read(self, experiment_id: str, after: int) -> list[HistoryEntry]:
        """Read on; while the database is away, there is nothing."""
        try:
            return await read_history(self._database, experiment_id, after)
        except DatabaseError as error:
            log.warning("experiment %s cannot be followed for now: %s", experiment_id, error)
            return []

    async def _wait(self, bell: asyncio.Event, seconds: float) -> bool:
        """Wait for news; false when it is time to look without any."""
        pause = self.poll_seconds if self._is_listening else self.blind_poll_seconds
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(bell.wait(), min(pause, seconds))
        return bell.is_set()

    async def _is_gone(self, experiment_id: str) -> bool:
        """Say whether the experiment was deleted meanwhile."""
        try:
            row = await self._database.fetch_one(
                "SELECT FROM experiments WHERE id = %(id)s", id=experiment_id
            )
        except DatabaseError:
            return False
        return row is None

    @contextmanager
    def _subscribed(self, experiment_id: str) -> Iterator[asyncio.Event]:
        bell = asyncio.Event()
        self._bells[experiment_id].add(bell)
        try:
            yield bell
        finally:
            self._bells[experiment_id].discard(bell)
            if not self._bells[experiment_id]:
                del self._bells[experiment_id]

    def _ring(self, *experiment_ids: str) -> None:
        for experiment_id in experiment_ids:
            for bell in self._bells.get(experiment_id, ()):
                bell.set()

    async def _listen(self) -> None:
        """Listen for ever, taking it up again where the connection breaks."""
        while True:
            try:
                async with self._database.listen(CHANNEL) as listener:
                    self._is_listening = True
                    self._ring(*self._bells)  # what was told meanwhile, nobody has heard
                    while True:
                        self._ring(*await listener.payloads(_LISTEN_SECONDS))
            except DatabaseError as error:
                log.warning("nobody listens for news of experiments for now: %s", error)
            finally:
                self._is_listening = False
            await asyncio.sleep(_RECONNECT_SECONDS)
