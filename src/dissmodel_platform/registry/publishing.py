"""Publish a commit: models, problems and withdrawals, on one connection, in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg.types.json import Json

from dissmodel_platform.database.pool import Connection, execute, fetch_all, fetch_one
from dissmodel_platform.registry.catalog import PATH, CatalogSource, parse_catalog
from dissmodel_platform.registry.problems import SpecProblem
from dissmodel_platform.registry.reader import reader_version
from dissmodel_platform.registry.snapshot import ModelReading, SnapshotChange
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
        "INSERT INTO registry_publications (revision, catalog_oid, reader)"
        " VALUES (%(revision)s, %(catalog)s, %(reader)s) RETURNING seq",
        revision=change.revision,
        catalog=change.catalog.oid if change.catalog else None,
        reader=reader_version(),
    )
    assert row is not None
    publication = int(row["seq"])
    await execute(connection, "DELETE FROM registry_problems WHERE origin = 'listing'")
    await _drop_content_problems(connection, change)
    if reads_catalog:
        await execute(connection, "DELETE FROM registry_problems WHERE path = %(path)s", path=PATH)
    await _insert_problems(connection, change.problems, origin="listing")
    await _forget_broken(connection, publication, change)
    await _note_broken(connection, publication, change.refused)
    return publication


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
    good = [reading for reading in readings if reading.parsed.spec is not None]
    broken = {reading.file.name for reading in readings if reading.parsed.spec is None}
    await _note_broken(connection, publication, broken)
    await _note_mended(connection, publication, [reading.file.name for reading in good])
    await _insert_versions(connection, good)
    await _serve(connection, publication, await _version_ids(connection, good), diff)


async def restore_broken(
    connection: Connection, publication: int, change: SnapshotChange, diff: Diff
) -> None:
    """Where the commit was published before, serve of its broken files what was served then.

    After this, a commit stands for the same versions at each of its publications. Call it when the
    commit's files have been published and the absent ones withdrawn.
    """
    rows = await fetch_all(
        connection,
        """
        SELECT b.model_name, h.version_id
        FROM (SELECT max(seq) AS seq FROM registry_publications
              WHERE revision = %(revision)s AND seq < %(seq)s) AS e
        JOIN broken_models AS b ON e.seq IS NOT NULL AND b.until_seq IS NULL
        LEFT JOIN model_history AS h ON h.model_name = b.model_name AND h.from_seq <= e.seq
            AND (h.until_seq IS NULL OR h.until_seq > e.seq)
        """,
        revision=change.revision,
        seq=publication,
    )
    versions = {row["model_name"]: row["version_id"] for row in rows}
    await _serve(connection, publication, versions, diff)


async def _serve(
    connection: Connection, publication: int, versions: Mapping[str, int | None], diff: Diff
) -> None:
    """Serve these versions from a publication on; ``None``: nothing of that model any more."""
    if not versions:
        return
    names, ids = list(versions), list(versions.values())
    diff.changed_keys |= await _changed_keys(connection, names, ids)
    closed_rows = await fetch_all(
        connection,
        """
        UPDATE model_history AS h SET until_seq = %(seq)s
        FROM unnest(%(names)s::text[], %(ids)s::bigint[]) AS n (name, id)
        WHERE h.model_name = n.name AND h.until_seq IS NULL AND h.version_id IS DISTINCT FROM n.id
        RETURNING h.model_name
        """,
        seq=publication,
        names=names,
        ids=ids,
    )
    opened_rows = await fetch_all(
        connection,
        """
        INSERT INTO model_history (model_name, version_id, from_seq)
        SELECT n.name, n.id, %(seq)s
        FROM unnest(%(names)s::text[], %(ids)s::bigint[]) AS n (name, id)
        WHERE n.id IS NOT NULL
          AND NOT EXISTS (SELECT FROM model_history AS h
                          WHERE h.model_name = n.name AND h.until_seq IS NULL)
        RETURNING model_name
        """,
        seq=publication,
        names=names,
        ids=ids,
    )
    closed = {row["model_name"] for row in closed_rows}
    opened = {row["model_name"] for row in opened_rows}
    diff.added += sorted(opened - closed)
    diff.changed += sorted(opened & closed)
    diff.removed += sorted(closed - opened)


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
        await _insert_problems(connection, parsed.problems, origin="content")
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


async def _changed_keys(
    connection: Connection, names: list[str], ids: list[int | None]
) -> dict[str, list[str]]:
    """Compare versions with those that are served; models that are new or go are left out."""
    rows = await fetch_all(
        connection,
        """
        SELECT n.name, b.document AS before, a.document AS after
        FROM unnest(%(names)s::text[], %(ids)s::bigint[]) AS n (name, id)
        JOIN model_history AS h ON h.model_name = n.name AND h.until_seq IS NULL
        JOIN model_versions AS b ON b.id = h.version_id
        JOIN model_versions AS a ON a.id = n.id AND a.id <> b.id
        """,
        names=names,
        ids=ids,
    )
    changed: dict[str, list[str]] = {}
    for row in rows:
        before, after = _leaves(row["before"]), _leaves(row["after"])
        keys = [
            key
            for key in sorted(before.keys() | after.keys())
            if before.get(key, _ABSENT) != after.get(key, _ABSENT)
        ]
        if keys:
            changed[row["name"]] = keys[:_MOST_KEYS]
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


async def _note_broken(connection: Connection, publication: int, names: Collection[str]) -> None:
    """Note models whose file cannot be published."""
    if not names:
        return
    await execute(
        connection,
        """
        INSERT INTO broken_models (model_name, from_seq)
        SELECT n.name, %(seq)s FROM unnest(%(names)s::text[]) AS n (name)
        WHERE NOT EXISTS (SELECT FROM broken_models AS b
                          WHERE b.model_name = n.name AND b.until_seq IS NULL)
        """,
        seq=publication,
        names=list(names),
    )


async def _note_mended(connection: Connection, publication: int, names: Collection[str]) -> None:
    """Note models whose file is published, or gone."""
    if not names:
        return
    await execute(
        connection,
        "UPDATE broken_models SET until_seq = %(seq)s"
        " WHERE until_seq IS NULL AND model_name = ANY (%(names)s)",
        seq=publication,
        names=list(names),
    )


async def _forget_broken(connection: Connection, publication: int, change: SnapshotChange) -> None:
    """Forget the broken files that the commit has not any more."""
    if change.base is not None:
        await _note_mended(connection, publication, change.removed)
        return
    await execute(
        connection,
        """
        UPDATE broken_models AS b SET until_seq = %(seq)s
        WHERE b.until_seq IS NULL
          AND NOT EXISTS (SELECT FROM unnest(%(names)s::text[]) AS f (name)
                          WHERE f.name = b.model_name)
        """,
        seq=publication,
        names=list(change.present),
    )


async def _insert_versions(connection: Connection, readings: Sequence[ModelReading]) -> None:
    """Insert what was read, unless the newest version that was read from the same bytes is it."""
    rows = [
        {
            "name": reading.file.name,
            "oid": reading.file.oid,
            "class": spec.class_name,
            "package": spec.package,
            "description": spec.description,
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
                (model_name, blob_oid, class_name, package, description, document, source_text)
            SELECT %(name)s, %(oid)s, %(class)s, %(package)s, %(description)s, %(document)s,
                   %(source)s
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


async def _version_ids(
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
