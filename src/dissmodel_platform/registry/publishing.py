"""Publish a commit: models, problems and withdrawals, on one connection, in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg.types.json import Json

from dissmodel_platform.database.pool import Connection, execute, fetch_all, fetch_one
from dissmodel_platform.registry.catalog import PATH, CatalogSource, parse_catalog
from dissmodel_platform.registry.problems import SpecProblem
from dissmodel_platform.registry.snapshot import ModelReading, RegistryFile, SnapshotChange
from dissmodel_platform.registry.sync_runs import Overtaken

_LOCK = 7_303_114_514  # advisory lock of a publication; an arbitrary constant
_MOST_KEYS = 100
_ABSENT = object()


@dataclass
class Diff:
    """What a publication did, by the models' names; and which keys of a changed spec differ."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed_keys: dict[str, list[str]] = field(default_factory=dict)


async def begin_publication(
    connection: Connection, change: SnapshotChange, *, after: int | None, reads_catalog: bool
) -> int:
    """Begin a publication and drop the problems that it will find anew.

    Until the transaction ends, no other one begins: the database itself keeps two syncs apart,
    also where one has lost its lock.

    Parameters
    ----------
    after : int or None
        Number of the publication that ``change`` was compared with; ``None``: there is none.
    reads_catalog : bool
        Whether the catalogue is read again, or is gone.

    Returns
    -------
    int
        The publication's number.

    Raises
    ------
    Overtaken
        Another commit was published since.
    """
    await execute(connection, "SELECT pg_advisory_xact_lock(%(lock)s)", lock=_LOCK)
    latest = await fetch_one(connection, "SELECT max(seq) AS seq FROM registry_publications")
    if latest is None or latest["seq"] != after:
        raise Overtaken("Another sync published a commit meanwhile; this one starts again.")
    row = await fetch_one(
        connection,
        "INSERT INTO registry_publications (revision) VALUES (%(revision)s) RETURNING seq",
        revision=change.revision,
    )
    assert row is not None
    await execute(connection, "DELETE FROM registry_problems WHERE origin = 'listing'")
    await _drop_content_problems(connection, change)
    if reads_catalog:
        await execute(connection, "DELETE FROM registry_problems WHERE path = %(path)s", path=PATH)
    await _insert_problems(connection, change.problems, origin="listing")
    return int(row["seq"])


async def _drop_content_problems(connection: Connection, change: SnapshotChange) -> None:
    """Drop the problems of files that are read again, refused or gone."""
    if change.base is None:
        await execute(
            connection, "DELETE FROM registry_problems WHERE path <> %(catalog)s", catalog=PATH
        )
        return
    names = {file.name for file in change.changed} | change.refused | change.removed
    await execute(
        connection,
        "DELETE FROM registry_problems WHERE path = ANY (%(paths)s)",
        paths=[f"models/{name}.toml" for name in names],
    )


async def publish_models(
    connection: Connection, publication: int, readings: Sequence[ModelReading], diff: Diff
) -> None:
    """Publish some of a commit's changed files; a broken one keeps its last good version."""
    problems = [problem for reading in readings for problem in reading.parsed.problems]
    await _insert_problems(connection, problems, origin="content")
    await _insert_versions(connection, readings)
    good = [reading for reading in readings if reading.parsed.spec is not None]
    diff.changed_keys |= await _changed_keys(connection, good)
    names = [reading.file.name for reading in good]
    oids = [reading.file.oid for reading in good]
    closed = await fetch_all(
        connection,
        """
        UPDATE model_history AS h SET until_seq = %(seq)s
        FROM unnest(%(names)s::text[], %(oids)s::text[]) AS n (name, oid)
        JOIN model_versions AS v ON v.model_name = n.name AND v.blob_oid = n.oid
        WHERE h.model_name = n.name AND h.until_seq IS NULL AND h.version_id <> v.id
        RETURNING h.model_name
        """,
        seq=publication,
        names=names,
        oids=oids,
    )
    opened = await fetch_all(
        connection,
        """
        INSERT INTO model_history (model_name, version_id, from_seq)
        SELECT v.model_name, v.id, %(seq)s
        FROM unnest(%(names)s::text[], %(oids)s::text[]) AS n (name, oid)
        JOIN model_versions AS v ON v.model_name = n.name AND v.blob_oid = n.oid
        WHERE NOT EXISTS (SELECT FROM model_history AS h
                          WHERE h.model_name = n.name AND h.until_seq IS NULL)
        RETURNING model_name
        """,
        seq=publication,
        names=names,
        oids=oids,
    )
    changed = {row["model_name"] for row in closed}
    diff.changed += sorted(changed)
    diff.added += sorted({row["model_name"] for row in opened} - changed)


async def withdraw_absent(
    connection: Connection, publication: int, change: SnapshotChange, diff: Diff
) -> None:
    """Withdraw every published model that has no file any more, readable or not."""
    if change.base is not None:  # the published commit: what it had and this one lacks
        condition = "h.model_name = ANY (%(names)s)"
        names = change.removed
    else:
        condition = """
            NOT EXISTS (SELECT FROM unnest(%(names)s::text[]) AS f (name)
                        WHERE f.name = h.model_name)
        """
        names = change.present
    rows = await fetch_all(
        connection,
        f"""
        UPDATE model_history AS h SET until_seq = %(seq)s
        WHERE h.until_seq IS NULL AND {condition}
        RETURNING h.model_name
        """,
        seq=publication,
        names=list(names),
    )
    diff.removed += sorted(row["model_name"] for row in rows)


async def publish_catalog(
    connection: Connection, publication: int, catalog: RegistryFile | None, content: bytes | None
) -> None:
    """Publish the catalogue of data sets; a broken one keeps the last good one.

    Parameters
    ----------
    catalog : RegistryFile or None
        The file of the commit; ``None`` withdraws the catalogue.
    content : bytes or None
        The file's bytes; ``None`` where it has not changed since the published commit.
    """
    if catalog is None:
        await _insert_catalog(connection, publication, None, {})
    elif content is not None:
        parsed = await asyncio.to_thread(parse_catalog, content)
        await _insert_problems(connection, parsed.problems, origin="content")
        if parsed.sources is not None:
            await _insert_catalog(connection, publication, catalog.oid, parsed.sources)


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
        WHERE %(oid)s::text IS DISTINCT FROM
              (SELECT blob_oid FROM catalogs ORDER BY from_seq DESC LIMIT 1)
        """,
        seq=publication,
        oid=blob_oid,
        sources=Json({name: asdict(source) for name, source in sources.items()}),
    )


async def _changed_keys(
    connection: Connection, readings: Sequence[ModelReading]
) -> dict[str, list[str]]:
    """Compare specs with the versions that are served; new models are left out."""
    rows = await fetch_all(
        connection,
        """
        SELECT v.model_name, v.document
        FROM model_history AS h JOIN model_versions AS v ON v.id = h.version_id
        WHERE h.until_seq IS NULL AND h.model_name = ANY (%(names)s)
        """,
        names=[reading.file.name for reading in readings],
    )
    served = {row["model_name"]: _leaves(row["document"]) for row in rows}
    changed: dict[str, list[str]] = {}
    for reading in readings:
        spec, before = reading.parsed.spec, served.get(reading.file.name)
        if spec is None or before is None:
            continue
        after = _leaves(spec.document)
        keys = [
            key
            for key in sorted(before.keys() | after.keys())
            if before.get(key, _ABSENT) != after.get(key, _ABSENT)
        ]
        if keys:
            changed[reading.file.name] = keys[:_MOST_KEYS]
    return changed


def _leaves(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten tables into dotted keys; arrays are values."""
    leaves: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


async def count_problems(connection: Connection) -> int:
    """Count the problems of the published commit."""
    row = await fetch_one(connection, "SELECT count(*) AS n FROM registry_problems")
    assert row is not None
    return int(row["n"])


async def _insert_versions(connection: Connection, readings: Sequence[ModelReading]) -> None:
    rows = [
        (
            reading.file.name,
            reading.file.oid,
            spec.class_name,
            spec.package,
            spec.description,
            Json(spec.document),
            spec.source_text,
        )
        for reading in readings
        if (spec := reading.parsed.spec) is not None
    ]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO model_versions
                (model_name, blob_oid, class_name, package, description, document, source_text)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (model_name, blob_oid) DO NOTHING
            """,
            rows,
        )


async def _insert_problems(
    connection: Connection, problems: Iterable[SpecProblem], *, origin: str
) -> None:
    rows = [(p.path, origin, p.line, p.column, p.severity, p.code, p.message) for p in problems]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            'INSERT INTO registry_problems (path, origin, line, "column", severity, code, message)'
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            rows,
        )
