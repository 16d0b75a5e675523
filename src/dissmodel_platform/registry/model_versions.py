"""Versions of models as they were read: kept once, found again, compared."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from psycopg.rows import DictRow
from psycopg.types.json import Json

from dissmodel_platform.database.pool import Connection, fetch_all
from dissmodel_platform.registry.snapshot import ModelReading
from dissmodel_platform.registry.spec_diff import changed_keys as spec_diff

_COMPARED_AT_ONCE = 5  # specs may be large


async def insert_versions(connection: Connection, readings: Sequence[ModelReading]) -> None:
    """Insert what was read, unless the newest version that was read from the same bytes is it."""
    rows = [
        {
            "name": reading.file.name,
            "oid": reading.file.oid,
            "class": spec.class_name,
            "package": spec.package,
            "description": spec.description,
            "dissmodel": spec.dissmodel,
            "document": Json(spec.document),
            "source": spec.source_text,
        }
        for reading in readings
        if (spec := reading.parsed.spec) is not None
    ]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO model_versions
                (model_name, blob_oid, class_name, package, description, dissmodel, document,
                 source_text)
            SELECT %(name)s, %(oid)s, %(class)s, %(package)s, %(description)s, %(dissmodel)s,
                   %(document)s, %(source)s
            WHERE NOT EXISTS (
                SELECT FROM (SELECT * FROM model_versions
                             WHERE model_name = %(name)s AND blob_oid = %(oid)s
                             ORDER BY id DESC LIMIT 1) AS v
                WHERE (v.class_name, v.package, v.description, v.source_text)
                      IS NOT DISTINCT FROM
                      (%(class)s::text, %(package)s::text, %(description)s::text, %(source)s::text)
                  AND v.document::text = %(document)s::text)
            """,
            rows,
        )


async def version_ids(
    connection: Connection, readings: Sequence[ModelReading]
) -> dict[str, int | None]:
    """Return the versions of files that have been read, by the models' names."""
    rows = await fetch_all(
        connection,
        """
        SELECT n.name, max(v.id) AS id
        FROM unnest(%(names)s::text[], %(oids)s::text[]) AS n (name, oid)
        JOIN model_versions AS v ON v.model_name = n.name AND v.blob_oid = n.oid
        GROUP BY n.name
        """,
        names=[reading.file.name for reading in readings],
        oids=[reading.file.oid for reading in readings],
    )
    return {row["name"]: row["id"] for row in rows}


async def changed_keys(
    connection: Connection, versions: Mapping[str, int | None], *, most: int
) -> dict[str, list[str]]:
    """Compare versions with those that are served; models that are new or go are left out.

    Parameters
    ----------
    versions : mapping of str to int or None
        What is to be served, by the models' names.
    most : int
        Keys that are told of all models together.

    Returns
    -------
    dict of str to list of str
        The dotted keys that differ, for each spec where some do.
    """
    differing = await fetch_all(
        connection,
        """
        SELECT n.name, h.version_id AS before, n.id AS after
        FROM unnest(%(names)s::text[], %(ids)s::bigint[]) AS n (name, id)
        JOIN model_history AS h ON h.model_name = n.name AND h.until_seq IS NULL
        WHERE n.id <> h.version_id
        """,
        names=list(versions),
        ids=list(versions.values()),
    )
    changed: dict[str, list[str]] = {}
    for start in range(0, len(differing), _COMPARED_AT_ONCE):
        rows = await fetch_all(
            connection,
            """
            SELECT b.model_name, b.document AS before, a.document AS after
            FROM unnest(%(before)s::bigint[], %(after)s::bigint[]) AS n (before, after)
            JOIN model_versions AS b ON b.id = n.before JOIN model_versions AS a ON a.id = n.after
            """,
            before=[row["before"] for row in differing[start : start + _COMPARED_AT_ONCE]],
            after=[row["after"] for row in differing[start : start + _COMPARED_AT_ONCE]],
        )
        for name, keys in (await asyncio.to_thread(_compare, rows)).items():
            if most > 0:
                changed[name] = keys[:most]
                most -= len(keys)
    return changed


def _compare(rows: Sequence[DictRow]) -> dict[str, list[str]]:
    compared = {row["model_name"]: spec_diff(row["before"], row["after"]) for row in rows}
    return {name: keys for name, keys in compared.items() if keys}
