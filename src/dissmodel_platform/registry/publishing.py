"""Publish a commit: models, problems and withdrawals, on one connection, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dissmodel_platform.database.pool import Connection, execute, fetch_all, fetch_one
from dissmodel_platform.registry.broken_models import forget_broken, note_broken, note_mended
from dissmodel_platform.registry.model_versions import changed_keys, insert_versions, version_ids
from dissmodel_platform.registry.problem_rows import drop_problems, insert_problems
from dissmodel_platform.registry.reader import reader_version
from dissmodel_platform.registry.snapshot import ModelReading, SnapshotChange
from dissmodel_platform.registry.sync_runs import Overtaken

_LOCK = 7_303_114_514  # advisory lock of a publication; an arbitrary constant
_MOST_KEYS = 10_000


@dataclass
class Diff:
    """What a publication did, by the models' names; and which keys of a changed spec differ.

    The keys are bounded, for each model and for all together: a record of them is for people.
    """

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
    await drop_problems(connection, change, reads_catalog=reads_catalog)
    await insert_problems(connection, change.problems, origin="listing")
    await forget_broken(connection, publication, change)
    await note_broken(connection, publication, change.refused)
    return publication


async def publish_models(
    connection: Connection, publication: int, readings: Sequence[ModelReading], diff: Diff
) -> None:
    """Publish some of a commit's changed files; a broken one keeps its last good version."""
    problems = [problem for reading in readings for problem in reading.parsed.problems]
    await insert_problems(connection, problems, origin="content")
    good = [reading for reading in readings if reading.parsed.spec is not None]
    broken = {reading.file.name for reading in readings if reading.parsed.spec is None}
    await note_broken(connection, publication, broken)
    await note_mended(connection, publication, [reading.file.name for reading in good])
    await insert_versions(connection, good)
    await _serve(connection, publication, await version_ids(connection, good), diff)


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
    told = sum(map(len, diff.changed_keys.values()))
    diff.changed_keys |= await changed_keys(connection, versions, most=_MOST_KEYS - told)
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
