"""Connections notice that the other end is gone, and a session that stopped stops no other."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from dissmodel_platform.database import pool
from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.database.pool import Database, execute, with_timeouts
from dissmodel_platform.errors import DatabaseError
from tests.network import Cut

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("url", ["postgresql://me@db.example.org/platform", "host=db dbname=x"])
def test_idle_connections_are_probed_unless_the_address_says_otherwise(url: str) -> None:
    probed = conninfo_to_dict(with_timeouts(url))
    assert conninfo_to_dict(url).items() <= probed.items()
    assert (probed["keepalives_idle"], probed["keepalives_count"]) == ("10", "3")
    assert (probed["tcp_user_timeout"], probed["connect_timeout"]) == ("15000", "5")
    separator = "?" if "://" in url else " "
    own = conninfo_to_dict(with_timeouts(f"{url}{separator}keepalives_idle=7"))
    assert own["keepalives_idle"] == "7"


def test_an_address_that_cannot_be_read_is_left_to_whoever_connects() -> None:
    assert with_timeouts("no address at all") == "no address at all"


async def test_the_server_looks_after_every_session(database_url: str) -> None:
    database = Database(database_url, max_connections=1)
    await database.open()
    rows = await database.fetch_all(
        """
        SELECT name, setting FROM pg_settings
        WHERE starts_with(name, 'tcp_') OR name = 'idle_in_transaction_session_timeout'
        """
    )
    await database.close()
    assert {row["name"] for row in rows} == set(pool._SERVER_SIDE)
    assert {"name": "idle_in_transaction_session_timeout", "setting": "10000"} in rows


async def test_a_session_that_stops_inside_a_transaction_lets_go_of_its_locks(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pool._SERVER_SIDE, "idle_in_transaction_session_timeout", "300ms")
    database = Database(database_url)
    await database.open()
    with pytest.raises(DatabaseError, match="broke off"):
        async with database.transaction() as stopped:
            await execute(stopped, "SELECT pg_advisory_xact_lock(1)")
            await database.execute("SELECT pg_advisory_xact_lock(1)")  # it gets the lock
            await execute(stopped, "SELECT 1")
    await database.close()


async def test_a_transaction_that_gets_no_answer_is_cut_off(
    postgres: EmbeddedPostgres, database_url: str
) -> None:
    async with Cut(database_url) as network:
        database = Database(network.url, transaction_seconds=0.5)
        await database.open()
        assert await database.fetch_one("SELECT 1 AS one") == {"one": 1}
        with pytest.raises(DatabaseError, match="broke off"):
            async with database.transaction() as connection:
                network.stop()
                await execute(connection, "SELECT 1")
        network.go_on()
        assert await database.fetch_one("SELECT 1 AS one") == {"one": 1}
        with pytest.raises(DatabaseError, match="broke off"):
            await database.execute("SELECT pg_sleep(60)")
        async with database.transaction(is_long=True) as connection:
            await execute(connection, "SELECT pg_sleep(0.7)")
        await database.close()


async def test_a_pool_is_back_soon_after_a_database_that_was_away_for_long(
    database_url: str,
) -> None:
    async with Cut(database_url) as network:
        database = Database(network.url, max_connections=3)
        database.pool.timeout = 0.2
        await database.open()
        await network.break_off()
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            with pytest.raises(DatabaseError):
                await database.execute("SELECT 1")
        await network.mend()
        database.pool.timeout = 30
        async with asyncio.timeout(4):
            await database.execute("SELECT 1")
        await database.close()


async def test_a_server_that_does_not_answer_is_told_in_time(database_url: str) -> None:
    async with Cut(database_url) as network:
        await network.break_off()
        database = Database(network.url)
        with pytest.raises(DatabaseError, match="does not answer"):
            await database.open(timeout_seconds=0.5)


async def test_what_was_done_before_an_error_is_undone(database: Database) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with database.transaction() as connection:
            await execute(connection, "CREATE TABLE made (n integer)")
            await execute(connection, "SELECT 1 / 0")
    assert await database.fetch_one("SELECT to_regclass('made') AS made") == {"made": None}
