"""Secrets that every process of a deployment shares, kept in the database."""

from __future__ import annotations

import secrets

from dissmodel_platform.database.pool import Database

LINK_SECRET = "download-links"  # noqa: S105 - the name of a secret, not one


async def shared_secret(database: Database, name: str) -> bytes:
    """Return 32 random bytes that are the same for every process; made by the first to ask."""
    await database.execute(
        "INSERT INTO secrets (name, value) VALUES (%(name)s, %(value)s) ON CONFLICT DO NOTHING",
        name=name,
        value=secrets.token_bytes(32),
    )
    row = await database.fetch_one("SELECT value FROM secrets WHERE name = %(name)s", name=name)
    assert row is not None
    return bytes(row["value"])
