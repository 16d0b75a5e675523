"""Whoever follows an experiment gets each entry of its history once, in order, and then its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest

from dissmodel_platform.database.pool import Database
from dissmodel_platform.execution.events import Change, LogLine
from dissmodel_platform.experiments.feed import Feed, HistoryEntry, read_history
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.transitions import claim, fail, report

pytestmark = pytest.mark.anyio

Submit = Callable[..., Awaitable[Experiment]]
PATIENCE_SECONDS = 30.0


@pytest.fixture
async def feed(database: Database) -> AsyncIterator[Feed]:
    feed = Feed(database)
    async with feed.listening():
        yield feed


async def running(database: Database, submit: Submit) -> Experiment:
    attempt = await claim(database, (await submit()).id, uuid4())
    assert attempt is not None
    return attempt


def told(entry: HistoryEntry) -> str:
    return str(entry.content.get("text") or entry.content[entry.kind])


async def everything(feed: Feed, experiment: Experiment, after: int = 0) -> list[HistoryEntry]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [
            entry
            async for batch in feed.follow(experiment.id, after, idle_seconds=60)
            for entry in batch
        ]


async def listeners(database: Database) -> int:
    row = await database.fetch_one(
        "SELECT count(*) AS n FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN \"experiment_events\"'"
    )
    assert row is not None
    return int(row["n"])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_many_follow_a_run_from_its_beginning_over_one_connection(
    database: Database, submit: Submit, feed: Feed
) -> None:
    attempt = await running(database, submit)
    followers = [asyncio.create_task(everything(feed, attempt)) for _ in range(20)]
    await report(database, attempt, [Change("phase", {"phase": "run"})], {"phase": "run"})
    for number in range(30):
        await report(database, attempt, [LogLine("stdout", str(number))], None)
    assert await listeners(database) == 1
    assert feed.followers == 20
    await fail(database, attempt, {}, [LogLine("platform", "why")])
    expected = ["pending", "running", "run", *map(str, range(30)), "why", "failed"]
    for entries in await asyncio.gather(*followers):
        assert [told(entry) for entry in entries] == expected
        assert [entry.seq for entry in entries] == sorted({entry.seq for entry in entries})
    assert feed.followers == 0


async def test_following_goes_on_anywhere_also_after_the_end(
    database: Database, submit: Submit, feed: Feed
) -> None:
    attempt, other = await running(database, submit), await running(database, submit)
    for number in range(4):  # the numbers of two runs are mixed
        await report(database, attempt, [LogLine("stdout", str(number))] * 2, {"percent": number})
        await report(database, other, [LogLine("stdout", "not this")], None)
    await fail(database, attempt, {}, [])
    whole = await everything(feed, attempt)
    assert whole[-1].is_last
    for place, entry in enumerate(whole[:-1]):
        assert await everything(feed, attempt, entry.seq) == whole[place + 1 :]


async def test_news_wake_who_waits_at_once(database: Database, submit: Submit, feed: Feed) -> None:
    feed.poll_seconds = 600
    attempt = await running(database, submit)
    following = asyncio.create_task(everything(feed, attempt))
    await until(lambda: _true(feed.followers == 1))
    await fail(database, attempt, {}, [])
    assert (await following)[-1].is_last


async def test_while_nobody_can_listen_followers_look_by_themselves(
    database: Database, submit: Submit
) -> None:
    attempt = await running(database, submit)
    deaf = Feed(database)  # it was never told to listen
    following = asyncio.create_task(everything(deaf, attempt))
    await until(lambda: _true(deaf.followers == 1))
    await fail(database, attempt, {}, [])
    assert (await following)[-1].is_last


async def test_a_connection_that_breaks_is_replaced_and_nothing_is_lost(
    database: Database, submit: Submit, feed: Feed
) -> None:
    attempt = await running(database, submit)
    following = asyncio.create_task(everything(feed, attempt))
    await until(lambda: _true(feed.followers == 1))
    for number in range(3):
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await report(database, attempt, [LogLine("stdout", str(number))], None)
    await until(lambda: _is_one(listeners(database)))
    await fail(database, attempt, {}, [])
    assert [told(entry) for entry in await following] == [
        "pending", "running", "0", "1", "2", "failed",
    ]  # fmt: skip


async def test_a_reader_gets_pieces_of_bounded_size(database: Database, submit: Submit) -> None:
    attempt = await running(database, submit)
    lines = [LogLine("stdout", f"{number:05}" + "x" * 50_000) for number in range(30)]
    await report(database, attempt, [*lines, LogLine("stdout", "y" * 500_000)], None)
    place, seen = 0, 0
    while batch := await read_history(database, attempt.id, place):
        size = sum(len(entry.content.get("text", "")) for entry in batch)
        assert size <= 300_000 or len(batch) == 1
        place, seen = batch[-1].seq, seen + len(batch)
    assert seen == 2 + 31


async def test_nothing_new_is_said_now_and_then(
    database: Database, submit: Submit, feed: Feed
) -> None:
    attempt = await running(database, submit)
    batches = feed.follow(attempt.id, 0, idle_seconds=0.05)
    assert await anext(batches)
    assert await anext(batches) == []
    assert await anext(batches) == []


async def test_following_ends_when_the_feed_closes_or_the_experiment_is_gone(
    database: Database, submit: Submit, feed: Feed
) -> None:
    feed.poll_seconds = 0.1
    gone, attempt = await running(database, submit), await running(database, submit)
    following = asyncio.create_task(everything(feed, gone))
    await until(lambda: _true(feed.followers == 1))
    await database.execute("DELETE FROM experiments WHERE id = %(id)s", id=gone.id)
    assert not any(entry.is_last for entry in await following)
    following = asyncio.create_task(everything(feed, attempt))
    await until(lambda: _true(feed.followers == 1))
    feed.close()
    assert not any(entry.is_last for entry in await following)


async def _true(value: bool) -> bool:
    return value


async def _is_one(count: Awaitable[int]) -> bool:
    return await count == 1
