"""The schema comes from numbered scripts, each applied once."""

from __future__ import annotations

import asyncio

import pytest

from dissmodel_platform.database.migrate import migrate, migration_scripts
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.registry.sync_runs import begin_run

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


async def test_the_registrys_history_is_carried_over(database_url: str) -> None:
    database = Database(database_url)
    await database.open()
    async with database.transaction() as connection:
        for _, text in migration_scripts()[:2]:
            await connection.execute(text.encode())
        await connection.execute(
            """
            INSERT INTO sync_runs (id, trigger, started_at)
            SELECT gen_random_uuid(), n::text, now() - make_interval(days => n)
            FROM generate_series(1, 3) AS n;
            INSERT INTO registry_publications (revision) VALUES ('a'), ('b');
            INSERT INTO registry_problems (path, origin, severity, code, message) VALUES
                ('models/broken.toml', 'content', 'error', 'a', ''),
                ('models/broken.toml', 'content', 'error', 'b', ''),
                ('models/warned.toml', 'content', 'warning', 'c', ''),
                ('catalog.yaml', 'content', 'error', 'd', '');
            INSERT INTO registry_holds (revision, reason) VALUES ('c', 'it waits')
            """
        )
        await connection.execute(
            "CREATE TABLE schema_migrations ("
            " name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for name, _ in migration_scripts()[:2]:
            await connection.execute("INSERT INTO schema_migrations (name) VALUES (%s)", (name,))
    assert await migrate(database) == [name for name, _ in migration_scripts()[2:]]
    await begin_run(database, "0")
    runs = await database.fetch_all("SELECT trigger FROM sync_runs ORDER BY number DESC")
    assert [run["trigger"] for run in runs] == ["0", "1", "2", "3"]
    broken = await database.fetch_all("SELECT model_name, from_seq FROM broken_models")
    assert broken == [{"model_name": "broken", "from_seq": 2}]
    assert await database.fetch_all("SELECT * FROM registry_holds") == []
    await database.close()


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
