"""Nothing that was started is left behind."""

from __future__ import annotations

import asyncio

import pytest

from dissmodel_platform.storage.tasks import begin, see_through

pytestmark = pytest.mark.anyio


async def test_work_that_is_seen_through_ends_before_the_cancellation_goes_on() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await asyncio.sleep(0.01)
        ended.set()

    task = asyncio.create_task(see_through(work()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_an_error_of_work_that_nobody_awaits_is_not_reported() -> None:
    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    async def fail() -> None:
        raise RuntimeError

    future = begin(fail())
    await asyncio.wait({future})
    del future
    assert reports == []
