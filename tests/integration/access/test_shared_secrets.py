"""Secrets that all processes of a deployment share."""

from __future__ import annotations

import asyncio

import pytest

from dissmodel_platform.access.shared_secrets import LINK_SECRET, shared_secret
from dissmodel_platform.database.pool import Database

pytestmark = pytest.mark.anyio


async def test_all_who_ask_together_get_the_one_secret_of_that_name(database: Database) -> None:
    asked = await asyncio.gather(*(shared_secret(database, LINK_SECRET) for _ in range(8)))
    assert len(set(asked)) == 1
    assert len(asked[0]) >= 32
    assert await shared_secret(database, "another") not in asked
