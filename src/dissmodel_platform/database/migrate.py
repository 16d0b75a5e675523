"""Bring the schema to the version this code expects; safe to call from every process at once."""

from __future__ import annotations

from importlib import resources

from procrastinate.schema import SchemaManager

from dissmodel_platform.database.pool import Connection, Database, execute, fetch_all, fetch_one

_LOCK = 7_303_114_511  # advisory lock of the migrations; an arbitrary constant


def migration_scripts() -> list[tuple[str, str]]:
    """Names and texts of the numbered scripts, in the order in which they are applied."""
    directory = resources.files("dissmodel_platform.database") / "migrations"
    scripts = [entry for entry in directory.iterdir() if entry.name.endswith(".sql")]
    return [(s.name, s.read_text(encoding="utf-8")) for s in sorted(scripts, key=lambda s: s.name)]


async def migrate(database: Database) -> list[str]:
    """Apply the scripts that have not been applied yet, all in one transaction.

    Returns
    -------
    list of str
        Names of the scripts applied by this call.
    """
    async with database.transaction(is_long=True) as connection:
        await execute(connection, "SELECT pg_advisory_xact_lock(%(lock)s)", lock=_LOCK)
        await execute(
            connection,
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            " name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
        )
        rows = await fetch_all(connection, "SELECT name FROM schema_migrations")
        done = {row["name"] for row in rows}
        await _install_queue(connection)
        applied = [(name, text) for name, text in migration_scripts() if name not in done]
        for name, text in applied:
            await connection.execute(text.encode())
            await execute(
                connection, "INSERT INTO schema_migrations (name) VALUES (%(name)s)", name=name
            )
    return [name for name, _ in applied]


async def _install_queue(connection: Connection) -> None:
    """Create the tables of the queue library, which come before ours."""
    row = await fetch_one(connection, "SELECT to_regclass('procrastinate_jobs') AS jobs")
    if row is not None and row["jobs"] is None:
        await connection.execute(SchemaManager.get_schema().encode())
