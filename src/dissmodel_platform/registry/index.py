"""The published registry in the database; readers see one whole commit, never a mixture."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import ModelNotFound, RevisionNotFound
from dissmodel_platform.registry.nearest import LONGEST_NAME, MOST_CANDIDATES, nearest_names
from dissmodel_platform.types import Revision

_COMMIT = re.compile(r"[0-9a-f]{7,64}")

_ENVIRONMENT_COLUMNS = """
    e.state AS env_state, e.environment_key AS env_key, e.seconds AS env_seconds,
    e.error AS env_error
"""
# SQL: the environment of a version; one that was made for another version of dissmodel is not it.
# The library is the last of the requirements (see `environments.packages`); old rows have none.
_ENVIRONMENT_JOIN = r"""
    CROSS JOIN LATERAL (
        SELECT regexp_replace(
            btrim(coalesce(v.dissmodel, '')), '^dissmodel\s*', ''
        ) AS versions
    ) AS library
    LEFT JOIN LATERAL (
        SELECT * FROM environments
        WHERE model_name = v.model_name AND package IS NOT DISTINCT FROM v.package
          AND coalesce(
              requirements[cardinality(requirements)]
                  IN ('dissmodel' || library.versions, 'dissmodel==' || library.versions),
              true)
        ORDER BY updated_at DESC LIMIT 1
    ) AS e ON true
"""

# SQL: whether a model's file was broken at a publication, so that an older version is served.
_STALE = """
        EXISTS (SELECT FROM broken_models AS b
                WHERE b.model_name = v.model_name AND b.from_seq <= %(seq)s
                  AND (b.until_seq IS NULL OR b.until_seq > %(seq)s))
"""


@dataclass(frozen=True)
class Publication:
    """A commit that was published.

    Attributes
    ----------
    seq : int
        Number of the publication; grows also when an earlier commit is published again.
    revision : Revision
        The commit.
    published_at : datetime
        When, by the database's clock.
    catalog_oid : str or None
        Git blob of its ``catalog.yaml``, whether that could be published or not.
    reader : str
        What read its files, see :func:`~dissmodel_platform.registry.reader.reader_version`.
    """

    seq: int
    revision: Revision
    published_at: datetime
    catalog_oid: str | None
    reader: str


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """One model at one publication, without its spec."""

    name: str
    revision: Revision
    class_name: str | None
    package: str | None
    description: str
    stale: bool
    environment: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PublishedModel(ListedModel):
    """One model at one publication."""

    source_text: str
    document: dict[str, Any]


@dataclass(frozen=True)
class PublishedProblems:
    """What is wrong with the files of the commit that is served.

    Attributes
    ----------
    revision : Revision or None
        The commit; ``None``: none has been published yet.
    total : int
        How many problems there are.
    problems : list of dict
        Those that were asked for, each with its ``id``.
    """

    revision: Revision | None
    total: int
    problems: list[dict[str, Any]]


async def latest_publication(database: Database) -> Publication | None:
    """Return what is served now, or ``None`` before the first publication."""
    row = await database.fetch_one("SELECT * FROM registry_publications ORDER BY seq DESC LIMIT 1")
    return None if row is None else _publication(row)


async def published_revisions(database: Database) -> list[Revision]:
    """Return every commit that was ever published."""
    rows = await database.fetch_all("SELECT DISTINCT revision FROM registry_publications")
    return [Revision(row["revision"]) for row in rows]


async def get_catalog(database: Database, publication: Publication) -> dict[str, Any]:
    """Return the sources of the catalogue at a publication, by name."""
    row = await database.fetch_one(
        "SELECT sources FROM catalogs WHERE from_seq <= %(seq)s ORDER BY from_seq DESC LIMIT 1",
        seq=publication.seq,
    )
    return {} if row is None else dict(row["sources"])


async def model_history(database: Database, name: str) -> list[dict[str, Any]]:
    """Return the versions of a model, newest first: commit, when it came, and what replaced it.

    Raises
    ------
    ModelNotFound
        No commit that was published had such a model.
    """
    rows = await database.fetch_all(
        """
        SELECT p.revision AS commit, p.published_at, r.revision AS until_commit,
               r.published_at AS until, v.blob_oid, v.package, v.description
        FROM model_history AS h
        JOIN model_versions AS v ON v.id = h.version_id
        JOIN registry_publications AS p ON p.seq = h.from_seq
        LEFT JOIN registry_publications AS r ON r.seq = h.until_seq
        WHERE h.model_name = %(name)s ORDER BY h.from_seq DESC
        """,
        name=name,
    )
    if not rows:
        publication = await latest_publication(database)
        nearest = [] if publication is None else await _nearest_models(database, publication, name)
        raise ModelNotFound(name, nearest)
    return rows


async def find_publication(database: Database, commit: str) -> Publication:
    """Return the newest publication of a commit.

    Parameters
    ----------
    commit : str
        A full commit id, or at least 7 digits of one.

    Raises
    ------
    RevisionNotFound
        No such commit was ever published, or several begin like that.
    """
    wanted = commit.strip().lower()
    rows: list[DictRow] = []
    if _COMMIT.fullmatch(wanted):
        rows = await database.fetch_all(
            """
            SELECT DISTINCT ON (revision) * FROM registry_publications
            WHERE revision LIKE %(prefix)s ORDER BY revision, seq DESC LIMIT 2
            """,
            prefix=wanted + "%",
        )
    if not rows:
        raise RevisionNotFound(
            f"No commit {commit!r} of the registry was published here; give the commit id that a "
            f"record's model_commit holds."
        )
    if len(rows) > 1:
        raise RevisionNotFound(f"Several commits begin with {commit!r}; give more digits.")
    return _publication(rows[0])


async def get_publication(database: Database, seq: int) -> Publication | None:
    """Return the publication of a number, or ``None`` where there is none."""
    row = await database.fetch_one(
        "SELECT * FROM registry_publications WHERE seq = %(seq)s", seq=seq
    )
    return None if row is None else _publication(row)


async def list_models(
    database: Database, publication: Publication, *, limit: int, after: str = ""
) -> list[ListedModel]:
    """Return one page of the models of a publication, by name; no spec is read."""
    rows = await database.fetch_all(
        f"""
        SELECT v.model_name, v.class_name, v.package, v.description, {_STALE} AS stale,
               {_ENVIRONMENT_COLUMNS}
        FROM model_history AS h JOIN model_versions AS v ON v.id = h.version_id
        {_ENVIRONMENT_JOIN}
        WHERE h.model_name > %(after)s AND h.from_seq <= %(seq)s
          AND (h.until_seq IS NULL OR h.until_seq > %(seq)s)
        ORDER BY h.model_name LIMIT %(limit)s
        """,
        seq=publication.seq,
        after=after,
        limit=limit,
    )
    return [ListedModel(**_listed(row, publication)) for row in rows]


async def get_model(database: Database, publication: Publication, name: str) -> PublishedModel:
    """Return one model of a publication.

    Raises
    ------
    ModelNotFound
        Carries the nearest known names.
    """
    row = await database.fetch_one(
        f"""
        SELECT v.*, {_ENVIRONMENT_COLUMNS}, e.output_tail AS env_tail, {_STALE} AS stale
        FROM model_history AS h JOIN model_versions AS v ON v.id = h.version_id
        {_ENVIRONMENT_JOIN}
        WHERE h.model_name = %(name)s AND h.from_seq <= %(seq)s
          AND (h.until_seq IS NULL OR h.until_seq > %(seq)s)
        """,
        seq=publication.seq,
        name=name,
    )
    if row is None:
        raise ModelNotFound(name, await _nearest_models(database, publication, name))
    return _model(row, publication)


async def model_names(database: Database, publication: Publication) -> list[str]:
    """Return the names of all models of a publication."""
    rows = await database.fetch_all(
        """
        SELECT model_name FROM model_history
        WHERE from_seq <= %(seq)s AND (until_seq IS NULL OR until_seq > %(seq)s)
        ORDER BY model_name
        """,
        seq=publication.seq,
    )
    return [row["model_name"] for row in rows]


async def _nearest_models(database: Database, publication: Publication, name: str) -> list[str]:
    """Return names that look like a misspelt one, chosen as in :func:`nearest_names`."""
    start = name[:LONGEST_NAME]
    rows = await database.fetch_all(
        """
        SELECT model_name FROM model_history
        WHERE from_seq <= %(seq)s AND (until_seq IS NULL OR until_seq > %(seq)s)
        ORDER BY length(translate(model_name, %(letters)s, ''))
                 + abs(length(model_name) - %(length)s), model_name
        LIMIT %(most)s
        """,
        seq=publication.seq,
        letters="".join(sorted(set(start))),
        length=len(start),
        most=MOST_CANDIDATES,
    )
    return await asyncio.to_thread(nearest_names, name, [row["model_name"] for row in rows])


async def unready_models_of(database: Database, publication: int) -> list[str]:
    """Return the models whose version began with a publication, still stands, and is not built."""
    rows = await database.fetch_all(
        f"""
        SELECT h.model_name
        FROM model_history AS h JOIN model_versions AS v ON v.id = h.version_id
        {_ENVIRONMENT_JOIN}
        WHERE h.from_seq = %(seq)s AND h.until_seq IS NULL AND e.state IS DISTINCT FROM 'ready'
        ORDER BY h.model_name
        """,
        seq=publication,
    )
    return [row["model_name"] for row in rows]


async def list_problems(
    database: Database, *, limit: int | None = None, after: int = 0
) -> PublishedProblems:
    """Return what is wrong with the files of the commit that is served.

    Parameters
    ----------
    limit : int, optional
        How many at most; all of them by default.
    after : int
        ``id`` of a problem; only later ones are returned.
    """
    rows = await database.fetch_all(
        """
        SELECT r.revision, t.total,
               p.id, p.path, p.line, p."column", p.severity, p.code, p.message
        FROM (SELECT revision FROM registry_publications ORDER BY seq DESC LIMIT 1) AS r
        CROSS JOIN (SELECT count(*) AS total FROM registry_problems) AS t
        LEFT JOIN (SELECT * FROM registry_problems WHERE id > %(after)s
                   ORDER BY id LIMIT %(limit)s) AS p ON true
        ORDER BY p.id
        """,
        after=after,
        limit=limit,
    )
    revisions = [Revision(row.pop("revision")) for row in rows]
    totals = [int(row.pop("total")) for row in rows]
    problems = [row for row in rows if row["id"] is not None]
    return PublishedProblems(revisions[0] if rows else None, totals[0] if rows else 0, problems)


def _publication(row: DictRow) -> Publication:
    return Publication(
        row["seq"],
        Revision(row["revision"]),
        row["published_at"],
        row["catalog_oid"],
        row["reader"],
    )


def _model(row: DictRow, publication: Publication) -> PublishedModel:
    listed = _listed(row, publication)
    listed["environment"]["output_tail"] = row["env_tail"]
    return PublishedModel(**listed, source_text=row["source_text"], document=row["document"])


def _listed(row: DictRow, publication: Publication) -> dict[str, Any]:
    environment = {
        "state": row["env_state"] or "pending",
        "key": row["env_key"],
        "seconds": row["env_seconds"],
        "error": row["env_error"],
    }
    return {
        "name": row["model_name"],
        "revision": publication.revision,
        "class_name": row["class_name"],
        "package": row["package"],
        "description": row["description"],
        "stale": row["stale"],
        "environment": environment,
    }
