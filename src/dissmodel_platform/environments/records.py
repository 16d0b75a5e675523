"""Locks and build states in the database: one row for what one model asks to have installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dissmodel_platform.database.pool import Connection, Database, execute, fetch_one
from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.errors import EnvironmentBuildError, PlatformError
from dissmodel_platform.storable import storable_text
from dissmodel_platform.types import EnvironmentKey


@dataclass(frozen=True)
class EnvironmentRow:
    """What is known of one request.

    Attributes
    ----------
    id : int
        Row.
    lock : Lock or None
        The lock that answers the request, once it was resolved.
    """

    id: int
    lock: Lock | None


@dataclass(frozen=True, kw_only=True)
class StoredLock:
    """A lock that counts for a model's version, and when it was made.

    Attributes
    ----------
    lock : Lock
        What is installed.
    created_at : datetime
        When the lock was made, by the database's clock.
    package_version, package_commit : str or None
        Of the model's own package.
    dissmodel_version : str or None
        The library's version.
    """

    lock: Lock
    created_at: datetime
    package_version: str | None
    package_commit: str | None
    dissmodel_version: str | None


async def find_or_create(
    database: Database, model_name: str, request: PackageRequest
) -> EnvironmentRow:
    """Return the row of a model's request, with its lock if it has one."""
    async with database.transaction() as connection:
        await execute(
            connection,
            """
            INSERT INTO environments (model_name, request_sha256, package, requirements)
            VALUES (%(model)s, %(request)s, %(package)s, %(requirements)s)
            ON CONFLICT (model_name, request_sha256) DO UPDATE
                SET requirements = EXCLUDED.requirements
                WHERE environments.requirements IS DISTINCT FROM EXCLUDED.requirements
            """,
            model=model_name,
            request=request.digest(),
            package=request.package or None,
            requirements=list(request.requirements),
        )
        row = await fetch_one(
            connection,
            """
            SELECT e.id, l.content FROM environments AS e LEFT JOIN locks AS l
                ON l.sha256 = e.lock_sha256
            WHERE e.model_name = %(model)s AND e.request_sha256 = %(request)s
            """,
            model=model_name,
            request=request.digest(),
        )
    assert row is not None
    return EnvironmentRow(row["id"], Lock.parse(row["content"]) if row["content"] else None)


async def keep_lock(
    database: Database, row: EnvironmentRow, lock: Lock, request: PackageRequest
) -> Lock:
    """Store a lock that was made in place of the row's own, which is none at first.

    Where somebody else has stored one meanwhile, that one counts for everybody.

    Returns
    -------
    Lock
        The one that counts.
    """
    own = lock.model_package(request)
    library = lock.find("dissmodel")
    async with database.transaction() as connection:
        await execute(
            connection,
            "INSERT INTO locks (sha256, content) VALUES (%(sha256)s, %(content)s)"
            " ON CONFLICT DO NOTHING",
            sha256=lock.sha256,
            content=lock.text,
        )
        await execute(
            connection,
            """
            UPDATE environments
            SET lock_sha256 = %(lock)s, package_version = %(version)s, package_commit = %(commit)s,
                dissmodel_version = %(library)s, updated_at = clock_timestamp()
            WHERE id = %(id)s AND lock_sha256 IS NOT DISTINCT FROM %(old)s
            """,
            id=row.id,
            old=row.lock.sha256 if row.lock is not None else None,
            lock=lock.sha256,
            version=own.version if own and own.version else None,
            commit=own.commit if own and own.commit else None,
            library=library.version if library else None,
        )
        kept = await fetch_one(
            connection,
            "SELECT l.content FROM environments AS e JOIN locks AS l ON l.sha256 = e.lock_sha256"
            " WHERE e.id = %(id)s",
            id=row.id,
        )
    assert kept is not None
    return Lock.parse(kept["content"])


async def find_lock(
    database: Database, model_name: str, package: str, requirements: Sequence[str]
) -> StoredLock | None:
    """Return the lock that counts for a model's version; of several machines', the newest.

    Parameters
    ----------
    package : str
        The spec's ``package``; empty for the built-in executors.
    requirements : sequence of str
        What its request asks the resolver for.
    """
    row = await database.fetch_one(
        """
        SELECT l.content, l.created_at, e.package_version, e.package_commit, e.dissmodel_version
        FROM environments AS e JOIN locks AS l ON l.sha256 = e.lock_sha256
        WHERE e.model_name = %(model)s AND e.package IS NOT DISTINCT FROM %(package)s
          AND e.requirements = %(requirements)s::text[]
        ORDER BY l.created_at DESC LIMIT 1
        """,
        model=model_name,
        package=package or None,
        requirements=list(requirements),
    )
    if row is None:
        return None
    return StoredLock(
        lock=Lock.parse(row["content"]),
        created_at=row["created_at"],
        package_version=row["package_version"],
        package_commit=row["package_commit"],
        dissmodel_version=row["dissmodel_version"],
    )


async def load_lock(database: Database, sha256: str) -> Lock:
    """Return a lock that an experiment used."""
    row = await database.fetch_one(
        "SELECT content FROM locks WHERE sha256 = %(sha256)s", sha256=sha256
    )
    assert row is not None, f"lock {sha256} is referred to, so it is kept"
    return Lock.parse(row["content"])


async def forget_failure(connection: Connection, model_name: str, package: str | None) -> None:
    """Say that an environment that could not be built is waiting to be built again."""
    await execute(
        connection,
        """
        UPDATE environments SET state = 'pending', error = NULL, output_tail = NULL,
            updated_at = clock_timestamp()
        WHERE model_name = %(model)s AND package IS NOT DISTINCT FROM %(package)s
          AND state = 'failed'
        """,
        model=model_name,
        package=package,
    )


async def mark_building(database: Database, row: EnvironmentRow) -> None:
    """Say that a worker is resolving or building, unless the environment is known to work."""
    await database.execute(
        """
        UPDATE environments SET state = 'building', error = NULL, output_tail = NULL,
            updated_at = clock_timestamp()
        WHERE id = %(id)s AND state <> 'ready'
        """,
        id=row.id,
    )


async def mark_ready(
    database: Database, row: EnvironmentRow, key: EnvironmentKey, seconds: float | None
) -> None:
    """Say that the environment works; ``seconds`` is what building it took, if it was built."""
    await database.execute(
        """
        UPDATE environments
        SET state = 'ready', environment_key = %(key)s, seconds = coalesce(%(seconds)s, seconds),
            error = NULL, output_tail = NULL, updated_at = clock_timestamp()
        WHERE id = %(id)s
          AND (state <> 'ready' OR environment_key IS DISTINCT FROM %(key)s
               OR %(seconds)s::float8 IS NOT NULL)
        """,
        id=row.id,
        key=key,
        seconds=seconds,
    )


async def mark_left(database: Database, row: EnvironmentRow) -> None:
    """Say that a worker has left off resolving or building."""
    await database.execute(
        """
        UPDATE environments SET state = 'pending', updated_at = clock_timestamp()
        WHERE id = %(id)s AND state = 'building'
        """,
        id=row.id,
    )


async def mark_failed(database: Database, row: EnvironmentRow, error: PlatformError) -> None:
    """Keep why the environment cannot be built."""
    tail = error.output_tail if isinstance(error, EnvironmentBuildError) else ""
    await database.execute(
        """
        UPDATE environments
        SET state = 'failed', error = %(error)s, output_tail = %(tail)s,
            updated_at = clock_timestamp()
        WHERE id = %(id)s
        """,
        id=row.id,
        error=storable_text(str(error)),
        tail=storable_text(tail),
    )
