"""A database of its own for each test that asks for one, on the session's PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Make an empty database and drop it at the end."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield make_conninfo(postgres.url, dbname=name)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
        )


@pytest.fixture
async def database(database_url: str, anyio_backend: str) -> AsyncIterator[Database]:
    """Open a migrated database."""
    opened = Database(database_url)
    await opened.open()
    await migrate(opened)
    yield opened
    await opened.close()
