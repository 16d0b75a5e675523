"""The state machine: each transition is one statement that names the state it expects.

::

    pending ──claim──> running ──complete──> completed
       │  ^               ├──────fail──────> failed
       │  └──hand_back────┤
       └──cancel──────────┴──────cancel────> cancelled

An attempt may only end the run that it claimed: statements of an attempt name its number, so what
comes late, from a worker that was given up, changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Json, Jsonb

from dissmodel_platform.database.pool import Connection, Database, execute, fetch_one
from dissmodel_platform.execution.events import Entry, LogLine
from dissmodel_platform.execution.outputs import Artifact
from dissmodel_platform.experiments.once import Once
from dissmodel_platform.experiments.record import Experiment, Submission
from dissmodel_platform.storable import storable_text
from dissmodel_platform.types import ExperimentId, Priority

MOST_LOSSES = 3
"""Attempts that the machinery may lose before the experiment fails."""


async def insert(
    connection: Connection,
    experiment_id: ExperimentId,
    submission: Submission,
    *,
    submitted_by: str,
    priority: Priority,
    reproduces: ExperimentId | None = None,
    once: Once | None = None,
) -> Experiment | None:
    """Create a pending experiment; ``None`` where the same id or key is there already."""
    row = await fetch_one(
        connection,
        """
        INSERT INTO experiments
            (id, priority, model_name, model_commit, submitted_by, reproduces, submission,
             idempotency_key, request_sha256)
        VALUES (%(id)s, %(priority)s, %(model)s, %(commit)s, %(by)s, %(reproduces)s,
                %(submission)s, %(key)s, %(request)s)
        ON CONFLICT DO NOTHING
        RETURNING *
        """,
        id=experiment_id,
        priority=priority.value,
        model=submission.model_name,
        commit=submission.model_commit,
        by=submitted_by,
        reproduces=reproduces,
        submission=Json(submission.model_dump(mode="json")),
        key=once.key if once is not None else None,
        request=once.request_sha256 if once is not None else None,
    )
    return None if row is None else Experiment.from_row(row)


async def set_queue_job(
    connection: Connection, experiment_id: ExperimentId, queue_job_id: int
) -> None:
    """Note which job of the queue wakes a worker for this experiment."""
    await execute(
        connection,
        "UPDATE experiments SET queue_job_id = %(job)s WHERE id = %(id)s",
        id=experiment_id,
        job=queue_job_id,
    )


async def claim(database: Database, experiment_id: str, worker: UUID) -> Experiment | None:
    """Take a pending experiment; ``None`` when somebody else has, or it was cancelled."""
    row = await database.fetch_one(
        """
        UPDATE experiments
        SET status = 'running', attempt = attempt + 1, worker = %(worker)s, progress = NULL,
            started_at = clock_timestamp(), updated_at = clock_timestamp()
        WHERE id = %(id)s AND status = 'pending'
        RETURNING *
        """,
        id=experiment_id,
        worker=worker,
    )
    return None if row is None else Experiment.from_row(row)


async def report(
    database: Database,
    experiment: Experiment,
    entries: Sequence[Entry],
    progress: dict[str, Any] | None,
) -> bool:
    """Write what a running attempt tells; with nothing to write, only look at who owns it.

    Parameters
    ----------
    entries : sequence of Entry
        Log lines and changes, in order.
    progress : dict or None
        Where the run stands now; ``None``: as before.

    Returns
    -------
    bool
        Whether the attempt still owns the experiment; otherwise nothing was written, and the run
        has to be stopped.
    """
    # Whoever adds to a log holds the row: its lines then become visible in the order of their
    # numbers, and a reader that has seen one has seen all before it.
    if progress is not None:
        statement = """
            UPDATE experiments SET progress = %(progress)s
            WHERE id = %(id)s AND status = 'running' AND attempt = %(attempt)s
        """
    elif entries:
        statement = """
            SELECT FROM experiments
            WHERE id = %(id)s AND status = 'running' AND attempt = %(attempt)s
            FOR NO KEY UPDATE
        """
    else:
        statement = """
            SELECT FROM experiments
            WHERE id = %(id)s AND status = 'running' AND attempt = %(attempt)s
        """
    async with database.transaction() as connection:
        owned = await execute(
            connection,
            statement,
            id=experiment.id,
            attempt=experiment.attempt,
            progress=None if progress is None else Jsonb(progress),
        )
        if owned:
            await append_log(connection, experiment.id, experiment.attempt, entries)
    return bool(owned)


async def append_log(
    connection: Connection, experiment_id: str, attempt: int, entries: Sequence[Entry]
) -> None:
    """Add lines and changes to an experiment's history, and tell those who follow it.

    The caller's transaction has changed or locked the experiment's row.
    """
    if not entries:
        return
    now = time.monotonic()
    await execute(
        connection,
        """
        WITH numbered AS MATERIALIZED (
            SELECT kind, text, clock_timestamp() - make_interval(secs => age) AS at,
                   nextval('experiment_logs_seq_seq') AS seq
            FROM (
                SELECT * FROM unnest(%(kinds)s::text[], %(texts)s::text[], %(ages)s::float8[])
                    WITH ORDINALITY AS given (kind, text, age, number)
                ORDER BY number
            ) AS ordered
        ), logged AS (
            INSERT INTO experiment_logs (experiment_id, seq, attempt, at, stream, line)
            OVERRIDING SYSTEM VALUE
            SELECT %(id)s, seq, %(attempt)s, at, kind, text
            FROM numbered WHERE kind NOT IN ('phase', 'progress')
        ), changed AS (
            INSERT INTO experiment_events (experiment_id, seq, attempt, at, kind, content)
            SELECT %(id)s, seq, %(attempt)s, at, kind, text::jsonb
            FROM numbered WHERE kind IN ('phase', 'progress')
        )
        SELECT pg_notify('experiment_events', %(id)s)
        """,
        id=experiment_id,
        attempt=attempt,
        kinds=[entry.stream if isinstance(entry, LogLine) else entry.kind for entry in entries],
        texts=[_text(entry) for entry in entries],
        ages=[now - entry.read_at for entry in entries],
    )


def _text(entry: Entry) -> str:
    if isinstance(entry, LogLine):
        return storable_text(entry.text)
    return json.dumps(entry.content)


async def complete(
    connection: Connection,
    experiment: Experiment,
    outcome: dict[str, Any],
    artifacts: Sequence[Artifact],
    entries: Sequence[Entry],
    progress: dict[str, Any] | None = None,
) -> bool:
    """Publish a result: state, artifacts and their addresses, or nothing at all.

    Parameters
    ----------
    entries, progress
        What the attempt has told and is not written yet, as for a report.

    Returns
    -------
    bool
        Whether the attempt still owned the experiment.
    """
    if not await _end(connection, experiment, "completed", outcome, progress):
        return False
    await append_log(connection, experiment.id, experiment.attempt, entries)
    rows = [(experiment.id, a.name, a.uri, a.sha256, a.size_bytes, a.media_type) for a in artifacts]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO artifacts (experiment_id, name, uri, sha256, size_bytes, media_type)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            rows,
        )
        await cursor.executemany(
            "INSERT INTO objects (uri, sha256, size_bytes, media_type) VALUES (%s, %s, %s, %s)",
            [row[2:] for row in rows],
        )
    return True


async def fail(
    database: Database,
    experiment: Experiment,
    outcome: dict[str, Any],
    entries: Sequence[Entry],
    progress: dict[str, Any] | None = None,
) -> bool:
    """End a running attempt as failed; the last of ``entries`` is the reason that clients show."""
    async with database.transaction() as connection:
        owned = await _end(connection, experiment, "failed", outcome, progress)
        if owned:
            await append_log(connection, experiment.id, experiment.attempt, entries)
    return owned


async def _end(
    connection: Connection,
    experiment: Experiment,
    status: str,
    outcome: dict[str, Any],
    progress: dict[str, Any] | None,
) -> bool:
    touched = await execute(
        connection,
        """
        UPDATE experiments
        SET status = %(status)s, outcome = %(outcome)s,
            progress = coalesce(%(progress)s, progress),
            finished_at = clock_timestamp(), updated_at = clock_timestamp()
        WHERE id = %(id)s AND status = 'running' AND attempt = %(attempt)s
        """,
        id=experiment.id,
        attempt=experiment.attempt,
        status=status,
        outcome=Json(outcome),
        progress=None if progress is None else Jsonb(progress),
    )
    return bool(touched)


async def cancel(connection: Connection, experiment_id: str) -> Experiment | None:
    """Cancel a pending or running experiment; ``None`` when it has ended already."""
    row = await fetch_one(
        connection,
        """
        UPDATE experiments
        SET status = 'cancelled', finished_at = clock_timestamp(), updated_at = clock_timestamp()
        WHERE id = %(id)s AND status IN ('pending', 'running')
        RETURNING *
        """,
        id=experiment_id,
    )
    return None if row is None else Experiment.from_row(row)


async def hand_back(connection: Connection, experiment: Experiment, *, lost: bool) -> str | None:
    """Give a running attempt up, so that another worker can take the experiment.

    Parameters
    ----------
    lost : bool
        Whether the machinery failed; such losses are counted, and the last one that is allowed
        fails the experiment.

    Returns
    -------
    str or None
        The new state (``pending`` or ``failed``), or ``None`` when the attempt owned it no more.
    """
    row = await fetch_one(
        connection,
        """
        UPDATE experiments
        SET losses = losses + %(lost)s::int,
            status = CASE WHEN losses + %(lost)s::int >= %(most)s THEN 'failed' ELSE 'pending' END,
            finished_at = CASE WHEN losses + %(lost)s::int >= %(most)s
                               THEN clock_timestamp() END,
            progress = NULL, worker = NULL, started_at = NULL, updated_at = clock_timestamp()
        WHERE id = %(id)s AND status = 'running' AND attempt = %(attempt)s
        RETURNING status
        """,
        id=experiment.id,
        attempt=experiment.attempt,
        lost=lost,
        most=MOST_LOSSES,
    )
    return None if row is None else str(row["status"])
