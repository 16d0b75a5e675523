"""The schema comes from numbered scripts, each applied once."""

from __future__ import annotations

import asyncio

import pytest

from dissmodel_platform.database.migrate import migrate, migration_scripts
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError

pytestmark = pytest.mark.anyio


async def test_a_second_migration_changes_nothing(database: Database) -> None:
    assert await migrate(database) == []


async def test_processes_that_start_together_apply_each_script_once(database_url: str) -> None:
    databases = [Database(database_url, max_connections=2) for _ in range(4)]
    for database in databases:
        await database.open()
    applied = await asyncio.gather(*(migrate(database) for database in databases))
    for database in databases:
        await database.close()
    expected = [name for name, _ in migration_scripts()]
    assert [name for names in applied for name in names] == expected


async def test_a_server_that_is_not_there_is_a_sentence() -> None:
    database = Database("host=/nonexistent dbname=none")
    with pytest.raises(DatabaseError, match="dissmodel-platform up"):
        await database.open(timeout_seconds=0.5)


async def test_an_exclusive_lock_admits_one_at_a_time(database: Database) -> None:
    inside: list[str] = []
    order: list[str] = []
    first_is_in = asyncio.Event()

    async def enter(name: str) -> None:
        async with database.exclusive(1):
            inside.append(name)
            order.append(name)
            first_is_in.set()
            assert inside == [name]
            await asyncio.sleep(0.05)
            inside.remove(name)

    first = asyncio.create_task(enter("first"))
    await first_is_in.wait()
    await asyncio.gather(first, enter("second"), enter("third"))
    assert order[0] == "first"
    assert sorted(order) == ["first", "second", "third"]
