"""Work that goes on beside the task that started it, and how to leave none behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_Result = TypeVar("_Result")


def begin(work: Awaitable[_Result]) -> asyncio.Future[_Result]:
    """Start `work` now, to be awaited later or dropped; a dropped one's error is not reported."""
    future = asyncio.ensure_future(work)
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future


async def see_through(work: Awaitable[_Result]) -> _Result:
    """Await `work` to its end, also when the caller is cancelled meanwhile.

    After this, callers can assume that `work` has ended; the cancellation is passed on then.
    """
    future = begin(work)
    cancellation: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        raise cancellation
    return future.result()
