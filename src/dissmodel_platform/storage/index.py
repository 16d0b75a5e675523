"""Which content each public address stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import DictRow

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import ObjectNotFound
from dissmodel_platform.storage.objects import StoredObject
from dissmodel_platform.storage.uris import LogicalUri
from dissmodel_platform.types import Sha256


@dataclass(frozen=True)
class IndexedObject:
    """A public address and what it stands for now."""

    uri: str
    sha256: Sha256
    size_bytes: int
    media_type: str
    label: str | None
    created_at: datetime


async def find_object(database: Database, uri: LogicalUri) -> IndexedObject:
    """Return what an address stands for.

    Raises
    ------
    ObjectNotFound
        Nothing was uploaded or written there.
    """
    row = await database.fetch_one("SELECT * FROM objects WHERE uri = %(uri)s", uri=str(uri))
    if row is None:
        raise ObjectNotFound(
            f"There is no file {uri}; upload it with POST /data/upload, or correct the address."
        )
    return _from_row(row)


async def find_objects(database: Database, uris: Iterable[str]) -> dict[str, IndexedObject]:
    """Return what some addresses stand for, by address, without those that stand for nothing."""
    rows = await database.fetch_all(
        "SELECT * FROM objects WHERE uri = ANY(%(uris)s)", uris=list(uris)
    )
    return {row["uri"]: _from_row(row) for row in rows}


async def index_upload(
    database: Database, uri: LogicalUri, stored: StoredObject, *, media_type: str, label: str
) -> IndexedObject:
    """Let an address stand for newly uploaded content; earlier experiments keep what they read."""
    row = await database.fetch_one(
        """
        INSERT INTO objects (uri, sha256, size_bytes, media_type, label)
        VALUES (%(uri)s, %(sha256)s, %(size)s, %(media_type)s, %(label)s)
        ON CONFLICT (uri) DO UPDATE
        SET sha256 = excluded.sha256, size_bytes = excluded.size_bytes,
            media_type = excluded.media_type, label = excluded.label,
            created_at = clock_timestamp()
        RETURNING *
        """,
        uri=str(uri),
        sha256=stored.sha256,
        size=stored.size_bytes,
        media_type=media_type,
        label=label,
    )
    assert row is not None
    return _from_row(row)


def _from_row(row: DictRow) -> IndexedObject:
    return IndexedObject(
        uri=row["uri"],
        sha256=Sha256(row["sha256"]),
        size_bytes=row["size_bytes"],
        media_type=row["media_type"],
        label=row["label"],
        created_at=row["created_at"],
    )
