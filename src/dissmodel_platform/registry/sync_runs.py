"""Requests to sync and the runs that answer them; the database carries them between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from dissmodel_platform.database.pool import (
    Connection,
    Database,
    execute,
    fetch_all,
    fetch_one,
)
from dissmodel_platform.errors import RegistryError

CHANNEL = "registry_sync"
"""PostgreSQL channel on which a request wakes the sync process."""

SYNC_LOCK = 7_303_114_513
"""Advisory lock of whoever syncs; an arbitrary constant."""

Waiting = Literal["none", "taken", "open"]
"""``open``: somebody waits, and nobody is at it; ``taken``: a run that goes on will answer."""

Outcome = Literal["published", "unchanged", "held", "failed"]


class Overtaken(RegistryError):
    """Another sync came in between; what this one has read may be out of date."""


@dataclass(frozen=True)
class SyncRun:
    """One look at the remote: what it found and what it published.

    Attributes
    ----------
    old_commit, new_commit : str or None
        What was served before, and what the remote serves now (``None``: not found out).
    changed_keys : dict of str to list of str
        For each changed model, the dotted keys of its spec that differ.
    outcome : {"published", "unchanged", "held", "failed"}
        What became of the new commit.
    hold : str or None
        Why it was held.
    error : str or None
        Why the run failed.
    """

    id: UUID
    trigger: str
    old_commit: str | None
    new_commit: str | None
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed_keys: dict[str, list[str]] = field(default_factory=dict)
    problems: int = 0
    git_output: str = ""
    outcome: Outcome = "unchanged"
    hold: str | None = None
    error: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def duration_seconds(self) -> float | None:
        """How long an ended run took."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def message(self) -> str:
        """What the run did, in one sentence."""
        if self.outcome == "failed":
            return f"The sync failed: {self.error}"
        if self.outcome == "held":
            return (
                f"Commit {self.new_commit} waits to be accepted, {self.old_commit} goes on being "
                f"served: {self.hold} Accept it with `dissmodel-platform registry accept "
                f"{self.new_commit}`."
            )
        if self.outcome == "unchanged":
            return f"Nothing new; commit {self.old_commit} is served."
        return (
            f"Published commit {self.new_commit}: {len(self.added)} added, "
            f"{len(self.changed)} changed, {len(self.removed)} removed, {self.problems} problems."
        )


async def request_sync(database: Database, trigger: str) -> int:
    """Ask for a sync; requests that arrive during a run share one more run."""
    async with database.transaction() as connection:
        return await add_request(connection, trigger)


async def add_request(connection: Connection, trigger: str) -> int:
    """Ask for a sync as part of a transaction; it is asked for once that is committed."""
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


async def waiting_requests(database: Database) -> Waiting:
    """Say whether somebody waits for a run, and whether a living process has taken that on."""
    async with database.transaction() as connection:
        free = await fetch_one(
            connection, "SELECT pg_try_advisory_xact_lock(%(lock)s) AS free", lock=SYNC_LOCK
        )
        row = await fetch_one(
            connection,
            """
            SELECT EXISTS (SELECT FROM sync_requests WHERE run_id IS NULL) AS open,
                   EXISTS (SELECT FROM sync_requests AS q JOIN sync_runs AS r ON r.id = q.run_id
                           WHERE r.finished_at IS NULL) AS taken
            """,
        )
    assert free is not None
    assert row is not None
    if row["open"] or (row["taken"] and free["free"]):  # nobody is inside: that run's process died
        return "open"
    return "taken" if row["taken"] else "none"


async def begin_run(database: Database, trigger: str) -> UUID:
    """Start a run; it answers every request that has arrived by now.

    The caller holds `SYNC_LOCK`. A run that has not ended has lost its process, then, or its
    lock: it is ended as failed, and the new one answers its requests too.
    """
    run_id = uuid4()
    async with database.transaction() as connection:
        ended = await fetch_all(
            connection,
            """
            UPDATE sync_runs
            SET finished_at = clock_timestamp(), outcome = 'failed', error = %(error)s
            WHERE finished_at IS NULL RETURNING id
            """,
            error="The sync process ended midway; a later run answers for this one.",
        )
        await execute(
            connection,
            """
            INSERT INTO sync_runs (id, trigger, old_commit)
            SELECT %(id)s, %(trigger)s,
                   (SELECT revision FROM registry_publications ORDER BY seq DESC LIMIT 1)
            """,
            id=run_id,
            trigger=trigger,
        )
        await execute(
            connection,
            "UPDATE sync_requests SET run_id = %(id)s"
            " WHERE run_id IS NULL OR run_id = ANY (%(ended)s)",
            id=run_id,
            ended=[row["id"] for row in ended],
        )
    return run_id


async def hand_back(database: Database, run: SyncRun) -> None:
    """Write down a run that has to be done again; its requests wait for the next one."""
    async with database.transaction() as connection:
        await _write_end(connection, run)
        await execute(
            connection, "UPDATE sync_requests SET run_id = NULL WHERE run_id = %(id)s", id=run.id
        )
        await execute(connection, "SELECT pg_notify(%(channel)s, '')", channel=CHANNEL)


async def finish_run(connection: Connection, run: SyncRun) -> None:
    """Write down how a run ended; on the connection that publishes, where something was.

    Raises
    ------
    Overtaken
        Another process has ended the run: this one has lost its lock and must not publish.
    """
    if not await _write_end(connection, run):
        raise Overtaken(
            "The sync lost its lock, and another one has begun meanwhile; it starts again."
        )


async def _write_end(connection: Connection, run: SyncRun) -> bool:
    """End a run; false where it was ended before."""
    ended = await execute(
        connection,
        """
        UPDATE sync_runs
        SET finished_at = clock_timestamp(), old_commit = %(old)s, new_commit = %(new)s,
            added = %(added)s, changed = %(changed)s, removed = %(removed)s,
            changed_keys = %(changed_keys)s, problems = %(problems)s,
            git_output = %(git_output)s, outcome = %(outcome)s, hold = %(hold)s,
            error = %(error)s
        WHERE id = %(id)s AND finished_at IS NULL
        """,
        id=run.id,
        old=run.old_commit,
        new=run.new_commit,
        added=run.added,
        changed=run.changed,
        removed=run.removed,
        problems=run.problems,
        changed_keys=Jsonb(run.changed_keys),
        git_output=run.git_output,
        outcome=run.outcome,
        hold=run.hold,
        error=run.error,
    )
    return bool(ended)


async def list_runs(database: Database, *, limit: int, before: str | None) -> list[SyncRun]:
    """Return finished runs, newest first.

    Parameters
    ----------
    before : str or None
        Id of a run; only older ones are returned.
    """
    rows = await database.fetch_all(
        """
        SELECT * FROM sync_runs
        WHERE finished_at IS NOT NULL
          AND (%(before)s::uuid IS NULL
               OR number < (SELECT number FROM sync_runs WHERE id = %(before)s::uuid))
        ORDER BY number DESC LIMIT %(limit)s
        """,
        before=before,
        limit=limit,
    )
    return [_run(row) for row in rows]


async def forget_old_runs(database: Database, *, keep_days: float) -> int:
    """Delete runs, and the deliveries that asked for them, that ended long ago.

    The newest run that succeeded is kept, however old it is.
    """
    await database.execute(
        "DELETE FROM webhook_deliveries"
        " WHERE received_at < clock_timestamp() - make_interval(secs => %(seconds)s)",
        seconds=keep_days * 86_400,
    )
    return await database.execute(
        """
        DELETE FROM sync_runs
        WHERE finished_at < clock_timestamp() - make_interval(secs => %(seconds)s)
          AND id <> ALL (SELECT id FROM sync_runs WHERE error IS NULL AND finished_at IS NOT NULL
                         ORDER BY number DESC LIMIT 1)
        """,
        seconds=keep_days * 86_400,
    )


async def last_runs(database: Database) -> dict[str, Any]:
    """Return when a sync last succeeded, how long ago, and, if the last one failed, why."""
    row = await database.fetch_one(
        """
        SELECT s.last_success,
               extract(epoch FROM clock_timestamp() - s.last_success)::float8 AS age_seconds,
               (SELECT error FROM sync_runs WHERE finished_at IS NOT NULL
                ORDER BY number DESC LIMIT 1) AS error
        FROM (SELECT (SELECT finished_at FROM sync_runs
                      WHERE error IS NULL AND finished_at IS NOT NULL
                      ORDER BY number DESC LIMIT 1) AS last_success) AS s
        """
    )
    assert row is not None
    return dict(row)


def _run(row: DictRow) -> SyncRun:
    return SyncRun(**{name: row[name] for name in SyncRun.__dataclass_fields__})
