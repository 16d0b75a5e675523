"""Follow a run while it goes on: server-sent events, and the log with times and streams."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import UTC
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Context, Parts, requires
from dissmodel_platform.api.problems import described
from dissmodel_platform.api.schemas import LogEntry, LogPage, Text
from dissmodel_platform.errors import InvalidInput, TooManyStreams
from dissmodel_platform.experiments import queries
from dissmodel_platform.experiments.feed import HistoryEntry, read_history

router = APIRouter(tags=["runs"])

KEEP_ALIVE_SECONDS = 15.0
"""A comment is sent after so long without an event: proxies cut what is silent for a minute."""

_LAST_ID = 2**63 - 1
_RETRY_MILLISECONDS = 2_000

_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="`id` of the last event that was received."),
]


class EventStream(StreamingResponse):
    """Events as text (HTML standard, 9.2: server-sent events); one of a key's streams.

    Parameters
    ----------
    events : async generator of str
        What is sent; the next is asked for when the client has taken the one before.
    streams : Counter
        Open streams by key.
    caller : str
        Whose it is.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[str, None], streams: Counter[str], caller: str
    ) -> None:
        super().__init__(events, headers=_HEADERS)
        self._events = events
        self._streams = streams
        self._caller = caller

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client has gone; after this, nothing is held for it."""
        self._streams[self._caller] += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams[self._caller] -= 1
            if not self._streams[self._caller]:
                del self._streams[self._caller]
            await self._events.aclose()


@router.get(
    "/job/{experiment_id}/events",
    summary="Follow a run",
    status_code=200,
    response_class=EventStream,
    responses={
        200: {"description": "Events, one after the other, until the run has ended"},
        204: {"description": "All events have been received: the run has ended"},
        **described(
            {
                404: "There is no such experiment",
                422: "Last-Event-ID is none of this endpoint's",
                429: "The key follows too many runs at once",
            }
        ),
    },
)
async def follow_job(
    experiment_id: Text,
    parts: Parts,
    caller: Annotated[Caller, Depends(requires(Scope.READ))],
    last_event_id: LastEventId = None,
) -> Response:
    """Stream what is kept of a run and then what comes, as server-sent events.

    Each has an `id`, an `event` (`log`, `phase`, `progress` or `status`) and JSON `data` with `at`
    and `attempt`. A `log` has `stream` and `text`; a `phase` has `phase`; a `progress` has `phase`,
    `time`, `start`, `end` (simulated), `percent` and `expected_end`; a `status` has `status`. The
    stream ends behind the final `status`. To go on after a break, send the last `id` as
    `Last-Event-ID`: nothing is lost or repeated; behind the last event the answer is 204.
    """
    after = _place(last_event_id)
    experiment = await queries.get_experiment(parts.database, experiment_id)
    has_ended = experiment.status.is_final and after > 0
    if has_ended and not await read_history(parts.database, experiment.id, after):
        return Response(status_code=204)
    most = parts.settings.event_streams_per_key
    if parts.streams[caller.name] >= most:
        raise TooManyStreams(
            f"This key follows {most} experiments already, which is as many as the operator allows "
            f"(PLATFORM_EVENT_STREAMS_PER_KEY); close a stream, or poll GET /job/{experiment.id}."
        )
    return EventStream(_events(parts, experiment.id, after), parts.streams, caller.name)


@router.head(
    "/job/{experiment_id}/events",
    summary="Whether a run can be followed",
    status_code=200,
    response_class=EventStream,
)
async def head_job_events(
    experiment_id: Text, parts: Parts, _: Annotated[Caller, Depends(requires(Scope.READ))]
) -> Response:
    """Answer as GET does, without any event."""
    await queries.get_experiment(parts.database, experiment_id)
    return Response(headers=_HEADERS, media_type=EventStream.media_type)


@router.get("/job/{experiment_id}/logs", summary="The log of a run, page by page")
async def get_job_logs(
    experiment_id: Text,
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    cursor: Annotated[int, Query(ge=0, le=_LAST_ID, description="`next` of the page before.")] = 0,
) -> LogPage:
    """Return log lines, oldest first, each with its time, stream and attempt."""
    experiment = await queries.get_experiment(parts.database, experiment_id)
    rows = await queries.log_page(parts.database, experiment.id, after=cursor, limit=limit + 1)
    lines = [LogEntry(**row) for row in rows[:limit]]
    return LogPage(lines=lines, next=lines[-1].id if len(rows) > limit else None)


def _place(last_event_id: str | None) -> int:
    """Return the place of the last event that a client has received; 0 for none."""
    if not last_event_id:
        return 0
    is_number = last_event_id.isascii() and last_event_id.isdecimal()
    if not is_number or len(last_event_id) > len(str(_LAST_ID)) or int(last_event_id) > _LAST_ID:
        message = (
            "Last-Event-ID must be the `id` of an event of this stream; leave it out to begin."
        )
        raise InvalidInput(message, {"Last-Event-ID": message})
    return int(last_event_id)


async def _events(parts: Context, experiment_id: str, after: int) -> AsyncGenerator[str, None]:
    yield f"retry: {_RETRY_MILLISECONDS}\n\n"
    following = parts.feed.follow(experiment_id, after, idle_seconds=KEEP_ALIVE_SECONDS)
    try:
        async for batch in following:
            yield "".join(map(_told, batch)) or ": nothing new\n\n"
    finally:
        await following.aclose()


def _told(entry: HistoryEntry) -> str:
    """Return an event as text; in ASCII, so that no character in it ends a line."""
    at = entry.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    content = {"at": at, "attempt": entry.attempt, **entry.content}
    return f"id: {entry.seq}\nevent: {entry.kind}\ndata: {json.dumps(content)}\n\n"
