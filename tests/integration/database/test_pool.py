"""Connections notice that the other end is gone."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from dissmodel_platform.database.pool import Database, with_keepalives

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("url", ["postgresql://me@db.example.org/platform", "host=db dbname=x"])
def test_idle_connections_are_probed_unless_the_address_says_otherwise(url: str) -> None:
    probed = conninfo_to_dict(with_keepalives(url))
    assert conninfo_to_dict(url).items() <= probed.items()
    assert (probed["keepalives_idle"], probed["keepalives_count"]) == ("30", "3")
    separator = "?" if "://" in url else " "
    own = conninfo_to_dict(with_keepalives(f"{url}{separator}keepalives_idle=7"))
    assert own["keepalives_idle"] == "7"


def test_an_address_that_cannot_be_read_is_left_to_whoever_connects() -> None:
    assert with_keepalives("no address at all") == "no address at all"


async def test_the_server_probes_whoever_holds_a_lock(database_url: str) -> None:
    database = Database(database_url, max_connections=1)
    await database.open()
    async with database.exclusive(1):
        pass
    rows = await database.fetch_all(
        "SELECT DISTINCT source FROM pg_settings WHERE starts_with(name, 'tcp_keepalives')"
    )
    await database.close()
    assert [row["source"] for row in rows] == ["session"]
