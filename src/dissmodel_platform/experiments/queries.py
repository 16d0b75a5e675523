"""Read experiments, their logs and their artifacts."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from typing import Any

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import ExperimentNotFound, InvalidInput
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.types import ExperimentStatus

MOST_LOG_LINES = 1_000

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_LONGEST_CURSOR = 200


async def get_experiment(database: Database, experiment_id: str) -> Experiment:
    """Return one experiment.

    Raises
    ------
    ExperimentNotFound
        There is none of that id.
    """
    plain = experiment_id.replace("-", "").lower()
    row = None
    if _ID.fullmatch(plain):
        row = await database.fetch_one("SELECT * FROM experiments WHERE id = %(id)s", id=plain)
    if row is None:
        raise ExperimentNotFound(experiment_id)
    return Experiment.from_row(row)


async def running_attempts(database: Database) -> list[tuple[str, int]]:
    """Return id and attempt of each experiment that runs now, on any worker."""
    rows = await database.fetch_all("SELECT id, attempt FROM experiments WHERE status = 'running'")
    return [(row["id"], row["attempt"]) for row in rows]


async def log_lines(database: Database, experiment_id: str) -> list[str]:
    """Return the last lines of an experiment's log, oldest first."""
    rows = await database.fetch_all(
        """
        SELECT line FROM (
            SELECT seq, line FROM experiment_logs
            WHERE experiment_id = %(id)s ORDER BY seq DESC LIMIT %(most)s
        ) AS newest ORDER BY seq
        """,
        id=experiment_id,
        most=MOST_LOG_LINES,
    )
    return [row["line"] for row in rows]


async def log_page(
    database: Database, experiment_id: str, *, after: int, limit: int
) -> list[dict[str, Any]]:
    """Return id, at, attempt, stream and text of the lines behind a place, oldest first."""
    return await database.fetch_all(
        """
        SELECT seq AS id, at, attempt, stream, line AS text FROM experiment_logs
        WHERE experiment_id = %(id)s AND seq > %(after)s ORDER BY seq LIMIT %(limit)s
        """,
        id=experiment_id,
        after=after,
        limit=limit,
    )


async def phases_of(database: Database, experiment_id: str) -> list[dict[str, Any]]:
    """Return phase, attempt and started_at (RFC 3339) of each phase of an experiment, in order."""
    rows = await database.fetch_all(
        """
        SELECT content->>'phase' AS phase, attempt, at FROM experiment_events
        WHERE experiment_id = %(id)s AND kind = 'phase' ORDER BY seq
        """,
        id=experiment_id,
    )
    return [
        {"phase": row["phase"], "attempt": row["attempt"], "started_at": row["at"].isoformat()}
        for row in rows
    ]


async def last_log_lines(database: Database, experiment_ids: list[str]) -> dict[str, list[str]]:
    """Return the last line of each of several logs, for listings."""
    rows = await database.fetch_all(
        """
        SELECT e.id, l.line
        FROM unnest(%(ids)s::text[]) AS e (id)
        CROSS JOIN LATERAL (
            SELECT line FROM experiment_logs WHERE experiment_id = e.id ORDER BY seq DESC LIMIT 1
        ) AS l
        """,
        ids=experiment_ids,
    )
    return {row["id"]: [row["line"]] for row in rows}


async def list_artifacts(database: Database, experiment_id: str) -> list[dict[str, Any]]:
    """Return name, uri, sha256, size_bytes and media_type of an experiment's artifacts."""
    return await database.fetch_all(
        """
        SELECT name, uri, sha256, size_bytes, media_type
        FROM artifacts WHERE experiment_id = %(id)s ORDER BY name
        """,
        id=experiment_id,
    )


async def list_experiments(
    database: Database, *, limit: int, status: ExperimentStatus | None, cursor: str | None
) -> tuple[list[Experiment], str | None]:
    """Return one page of experiments, newest first, and the cursor of the next.

    Raises
    ------
    InvalidInput
        The cursor is not one that this function returned.
    """
    at, after = _decode_cursor(cursor) if cursor else (None, None)
    rows = await database.fetch_all(
        """
        SELECT * FROM experiments
        WHERE (%(status)s::text IS NULL OR status = %(status)s)
          AND (%(at)s::timestamptz IS NULL OR (created_at, id) < (%(at)s, %(after)s))
        ORDER BY created_at DESC, id DESC
        LIMIT %(limit)s
        """,
        status=status.value if status else None,
        at=at,
        after=after,
        limit=limit + 1,
    )
    page = [Experiment.from_row(row) for row in rows[:limit]]
    more = len(rows) > limit
    return page, _encode_cursor(page[-1]) if more else None


async def count_experiments(database: Database, status: ExperimentStatus | None) -> int:
    """Count experiments, of one state or all."""
    row = await database.fetch_one(
        "SELECT count(*) AS n FROM experiments"
        " WHERE (%(status)s::text IS NULL OR status = %(status)s)",
        status=status.value if status else None,
    )
    assert row is not None
    return int(row["n"])


def _encode_cursor(experiment: Experiment) -> str:
    text = json.dumps([experiment.created_at.isoformat(), experiment.id])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[datetime, str]:
    decoded = _read_cursor(cursor) if len(cursor) <= _LONGEST_CURSOR else None
    if decoded is None:
        raise InvalidInput(
            "The cursor is not one that a listing returned; start without it.",
            {"cursor": "unknown cursor"},
        )
    return decoded


def _read_cursor(cursor: str) -> tuple[datetime, str] | None:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, experiment_id = json.loads(base64.urlsafe_b64decode(padded))
        moment = datetime.fromisoformat(at)
        is_ours = moment.utcoffset() is not None and _ID.fullmatch(experiment_id)
    except (ValueError, TypeError):
        return None
    return (moment, experiment_id) if is_ours else None
