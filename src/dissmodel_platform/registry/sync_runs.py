"""Requests to sync and the runs that answer them; the database carries them between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from psycopg.rows import DictRow

from dissmodel_platform.database.pool import Connection, Database, execute, fetch_one

CHANNEL = "registry_sync"
"""PostgreSQL channel on which a request wakes the sync process."""


@dataclass(frozen=True)
class SyncRun:
    """One look at the remote: what it found and what it published."""

    id: UUID
    trigger: str
    old_commit: str | None
    new_commit: str | None
    added: list[str]
    changed: list[str]
    removed: list[str]
    problems: int
    git_output: str
    error: str | None

    @property
    def message(self) -> str:
        """What the run did, in one sentence."""
        if self.error is not None:
            return f"The sync failed: {self.error}"
        if self.new_commit == self.old_commit:
            return f"Nothing new; commit {self.new_commit} is served."
        return (
            f"Published commit {self.new_commit}: {len(self.added)} added, "
            f"{len(self.changed)} changed, {len(self.removed)} removed, {self.problems} problems."
        )


async def request_sync(database: Database, trigger: str) -> int:
    """Ask for a sync; requests that arrive during a run share one more run."""
    async with database.transaction() as connection:
        row = await fetch_one(
            connection,
            "INSERT INTO sync_requests (trigger) VALUES (%(trigger)s) RETURNING id",
            trigger=trigger,
        )
        assert row is not None
        await execute(connection, "SELECT pg_notify(%(channel)s, '')", channel=CHANNEL)
    return int(row["id"])


async def answer_to(database: Database, request_id: int) -> SyncRun | None:
    """Return the finished run that answers a request, or ``None`` while there is none."""
    row = await database.fetch_one(
        """
        SELECT r.* FROM sync_requests AS q JOIN sync_runs AS r ON r.id = q.run_id
        WHERE q.id = %(id)s AND r.finished_at IS NOT NULL
        """,
        id=request_id,
    )
    return None if row is None else _run(row)


async def waiting_requests(database: Database) -> bool:
    """Say whether somebody waits for a run that has not started."""
    row = await database.fetch_one(
        "SELECT EXISTS (SELECT FROM sync_requests WHERE run_id IS NULL) AS waiting"
    )
    return bool(row and row["waiting"])


async def begin_run(database: Database, trigger: str, old_commit: str | None) -> UUID:
    """Start a run; it answers every request that has arrived by now."""
    run_id = uuid4()
    async with database.transaction() as connection:
        await execute(
            connection,
            "INSERT INTO sync_runs (id, trigger, old_commit) VALUES (%(id)s, %(trigger)s, %(old)s)",
            id=run_id,
            trigger=trigger,
            old=old_commit,
        )
        await execute(
            connection, "UPDATE sync_requests SET run_id = %(id)s WHERE run_id IS NULL", id=run_id
        )
    return run_id


async def finish_run(connection: Connection, run: SyncRun) -> None:
    """Write down how a run ended; on the connection that publishes, where something was."""
    await execute(
        connection,
        """
        UPDATE sync_runs
        SET finished_at = clock_timestamp(), old_commit = %(old)s, new_commit = %(new)s,
            added = %(added)s, changed = %(changed)s, removed = %(removed)s,
            problems = %(problems)s, git_output = %(git_output)s, error = %(error)s
        WHERE id = %(id)s
        """,
        id=run.id,
        old=run.old_commit,
        new=run.new_commit,
        added=run.added,
        changed=run.changed,
        removed=run.removed,
        problems=run.problems,
        git_output=run.git_output,
        error=run.error,
    )


async def last_runs(database: Database) -> dict[str, Any]:
    """Return when a sync last succeeded and, if the last one failed, why."""
    row = await database.fetch_one(
        """
        SELECT (SELECT max(finished_at) FROM sync_runs WHERE error IS NULL) AS last_success,
               (SELECT error FROM sync_runs WHERE finished_at IS NOT NULL
                ORDER BY finished_at DESC LIMIT 1) AS error
        """
    )
    assert row is not None
    return dict(row)


def _run(row: DictRow) -> SyncRun:
    return SyncRun(
        id=row["id"],
        trigger=row["trigger"],
        old_commit=row["old_commit"],
        new_commit=row["new_commit"],
        added=row["added"],
        changed=row["changed"],
        removed=row["removed"],
        problems=row["problems"],
        git_output=row["git_output"],
        error=row["error"],
    )
