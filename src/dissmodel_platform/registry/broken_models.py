"""Models whose file could not be published: what is served of them is stale."""

from __future__ import annotations

from collections.abc import Collection

from dissmodel_platform.database.pool import Connection, execute
from dissmodel_platform.registry.snapshot import SnapshotChange


async def note_broken(connection: Connection, publication: int, names: Collection[str]) -> None:
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


async def note_mended(connection: Connection, publication: int, names: Collection[str]) -> None:
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


async def forget_broken(connection: Connection, publication: int, change: SnapshotChange) -> None:
    """Forget the broken files that the commit has not any more."""
    if change.base is not None:
        await note_mended(connection, publication, change.removed)
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
