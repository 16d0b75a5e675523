"""A result is not thrown away because the database is away when it is to be written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

pytestmark = pytest.mark.anyio


@pytest.fixture
async def outsider(lab: Any, lab_database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Open a connection that can stand in a publication's way; the model's environment is ready."""
    await lab.run("draws")
    connection = await psycopg.AsyncConnection.connect(lab_database_url)
    async with connection:
        yield connection


async def hold_publications(outsider: psycopg.AsyncConnection[Any]) -> None:
    await outsider.execute("LOCK TABLE artifacts IN ACCESS EXCLUSIVE MODE")


async def waiting_for_lock(lab: Any, statement: str, *, but: int = 0) -> int:
    """Wait until a statement waits for the lock, and return its server process."""

    async def waiting() -> int | None:
        row = await lab.database.fetch_one(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> %(but)s"
            " AND datname = current_database() AND query LIKE %(statement)s",
            statement=statement,
            but=but,
        )
        return row and row["pid"]

    pid: int = await lab.until(waiting)
    return pid


async def publisher(lab: Any, *, but: int = 0) -> int:
    return await waiting_for_lock(lab, "INSERT INTO artifacts%", but=but)


async def terminate(lab: Any, pid: int) -> None:
    await lab.database.execute("SELECT pg_terminate_backend(%(pid)s)", pid=pid)


async def test_a_connection_that_breaks_while_a_result_is_published_costs_no_second_run(
    lab: Any, outsider: psycopg.AsyncConnection[Any]
) -> None:
    experiment = await lab.submit("draws")
    await hold_publications(outsider)
    running = asyncio.create_task(lab.runner().run(experiment.id))
    pid = await publisher(lab)
    await terminate(lab, pid)
    await publisher(lab, but=pid)  # it tries again
    await outsider.rollback()
    await running
    ended = await lab.get(experiment)
    assert (ended.status, ended.attempt) == ("completed", 1)
    assert set(await lab.files(ended)) == {"result.txt"}


async def test_without_patience_the_run_counts_as_lost(
    lab: Any, outsider: psycopg.AsyncConnection[Any]
) -> None:
    experiment = await lab.submit("draws")
    await hold_publications(outsider)
    running = asyncio.create_task(lab.runner(publish_patience_seconds=0).run(experiment.id))
    await terminate(lab, await publisher(lab))
    await outsider.rollback()
    await running
    assert (await lab.get(experiment)).status == "pending"


async def test_a_job_that_the_queue_lets_go_of_still_publishes_its_result(
    lab: Any, outsider: psycopg.AsyncConnection[Any]
) -> None:
    experiment = await lab.submit("draws")
    await hold_publications(outsider)
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await publisher(lab)
    running.cancel()
    await asyncio.sleep(0)
    await outsider.rollback()
    with pytest.raises(asyncio.CancelledError):
        await running
    ended = await lab.get(experiment)
    assert (ended.status, ended.attempt) == ("completed", 1)


async def test_the_failure_of_a_model_is_kept_as_well(
    lab: Any, outsider: psycopg.AsyncConnection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    experiment = await lab.submit("raises")
    await outsider.execute("LOCK TABLE experiment_logs IN ACCESS EXCLUSIVE MODE")
    running = asyncio.create_task(lab.runner().run(experiment.id))

    async def is_told() -> bool:
        """End whoever writes to the log: first what carries the model's lines, then its end."""
        await lab.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return "the end of a run cannot be written" in caplog.text

    await lab.until(is_told)
    await outsider.rollback()
    await running
    ended = await lab.get(experiment)
    assert (ended.status, ended.attempt) == ("failed", 1)
    assert "elevation of cell 7" in await lab.last_line(experiment)
