"""Publish the catalogue of data sets, on the connection that publishes its commit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict

from psycopg.types.json import Json

from dissmodel_platform.database.pool import Connection, execute
from dissmodel_platform.registry.catalog import CatalogSource, parse_catalog
from dissmodel_platform.registry.problem_rows import insert_problems
from dissmodel_platform.registry.snapshot import SnapshotChange


async def publish_catalog(
    connection: Connection, publication: int, change: SnapshotChange, content: bytes | None
) -> None:
    """Publish the catalogue of data sets; a broken one keeps the last good one.

    Where the commit was published before, a broken catalogue keeps the one that was served then.

    Parameters
    ----------
    change : SnapshotChange
        The commit; one without a catalogue withdraws it, one that refuses it does not.
    content : bytes or None
        The file's bytes; ``None`` where it has not changed since the published commit.
    """
    if content is not None:
        parsed = await asyncio.to_thread(parse_catalog, content)
        await insert_problems(connection, parsed.problems, origin="content")
        if change.catalog is not None and parsed.sources is not None:
            await _insert_catalog(connection, publication, change.catalog.oid, parsed.sources)
            return
    if change.catalog is None and not change.catalog_refused:
        await _insert_catalog(connection, publication, None, {})
    else:
        await _restore_catalog(connection, publication, change)


async def _insert_catalog(
    connection: Connection,
    publication: int,
    blob_oid: str | None,
    sources: Mapping[str, CatalogSource],
) -> None:
    """Insert a version of the catalogue, unless the newest one is the same."""
    await execute(
        connection,
        """
        INSERT INTO catalogs (from_seq, blob_oid, sources)
        SELECT %(seq)s, %(oid)s, %(sources)s
        FROM (SELECT) AS one
        LEFT JOIN LATERAL (SELECT * FROM catalogs ORDER BY from_seq DESC LIMIT 1) AS n ON true
        WHERE n.blob_oid IS DISTINCT FROM %(oid)s::text
           OR coalesce(n.sources::text, '{}') <> %(sources)s::text
        """,
        seq=publication,
        oid=blob_oid,
        sources=Json({name: asdict(source) for name, source in sources.items()}),
    )


async def _restore_catalog(
    connection: Connection, publication: int, change: SnapshotChange
) -> None:
    """Serve what the commit's earlier publication served, unless its own file is served."""
    await execute(
        connection,
        """
        INSERT INTO catalogs (from_seq, blob_oid, sources)
        SELECT %(seq)s, c.blob_oid, coalesce(c.sources, '{}')
        FROM (SELECT max(seq) AS seq FROM registry_publications
              WHERE revision = %(revision)s AND seq < %(seq)s) AS e
        LEFT JOIN LATERAL (SELECT * FROM catalogs WHERE from_seq <= e.seq
                           ORDER BY from_seq DESC LIMIT 1) AS c ON true
        LEFT JOIN LATERAL (SELECT * FROM catalogs ORDER BY from_seq DESC LIMIT 1) AS n ON true
        WHERE e.seq IS NOT NULL AND n.blob_oid IS DISTINCT FROM %(own)s
          AND (c.blob_oid IS DISTINCT FROM n.blob_oid
               OR coalesce(c.sources::text, '{}') <> coalesce(n.sources::text, '{}'))
        """,
        seq=publication,
        revision=change.revision,
        own=change.catalog.oid if change.catalog else "",
    )
