"""The problems of the published commit, as rows of the database."""

from __future__ import annotations

from collections.abc import Iterable

from dissmodel_platform.database.pool import Connection, execute, fetch_one
from dissmodel_platform.registry.catalog import PATH
from dissmodel_platform.registry.problems import SpecProblem
from dissmodel_platform.registry.snapshot import SnapshotChange


async def drop_problems(
    connection: Connection, change: SnapshotChange, *, reads_catalog: bool
) -> None:
    """Drop the problems that a publication finds anew: of files read again, refused or gone.

    Parameters
    ----------
    reads_catalog : bool
        Whether the catalogue is read again, or is gone.
    """
    await execute(connection, "DELETE FROM registry_problems WHERE origin = 'listing'")
    if reads_catalog:
        await execute(connection, "DELETE FROM registry_problems WHERE path = %(path)s", path=PATH)
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


async def insert_problems(
    connection: Connection, problems: Iterable[SpecProblem], *, origin: str
) -> None:
    """Write down what was found in the listing or in the files' content."""
    rows = [(p.path, origin, p.line, p.column, p.severity, p.code, p.message) for p in problems]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            'INSERT INTO registry_problems (path, origin, line, "column", severity, code, message)'
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            rows,
        )


async def count_problems(connection: Connection) -> int:
    """Count the problems of the published commit."""
    row = await fetch_one(connection, "SELECT count(*) AS n FROM registry_problems")
    assert row is not None
    return int(row["n"])
