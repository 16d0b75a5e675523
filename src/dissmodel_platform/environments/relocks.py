"""Requests for new locks in the database, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

from dissmodel_platform.database.pool import Connection, Database, execute, fetch_one
from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.lock_changes import LockChanges, changes_between
from dissmodel_platform.errors import PlatformError
from dissmodel_platform.storable import storable_text
from dissmodel_platform.types import Revision


@dataclass(frozen=True, kw_only=True)
class Relock:
    """Somebody's request for a new lock of a model's version.

    Attributes
    ----------
    id : UUID
        Names the request.
    model_name : str
        The model.
    publication : int
        Number of the publication that has the version.
    revision : Revision
        Its commit.
    requested_at, finished_at : datetime, datetime or None
        When it was asked for, and when a worker was done with it.
    old, new : Lock or None
        The lock that counted before, and the one that counts since; the same where nothing changed.
    error : str or None
        Why there is no new lock.
    output_tail : str
        Last lines of the tool's output then.
    """

    id: UUID
    model_name: str
    publication: int
    revision: Revision
    requested_at: datetime
    finished_at: datetime | None
    old: Lock | None
    new: Lock | None
    error: str | None
    output_tail: str

    @property
    def state(self) -> Literal["waiting", "done", "failed"]:
        """How it stands."""
        if self.finished_at is None:
            return "waiting"
        return "done" if self.error is None else "failed"

    @property
    def changes(self) -> LockChanges:
        """What the new lock brings; nothing while there is none."""
        return changes_between(self.old, self.new) if self.new is not None else LockChanges()

    @property
    def message(self) -> str:
        """What came of it, in one sentence."""
        if self.state == "waiting":
            return (
                f"No worker is done with it yet; GET /models/{self.model_name}/relocks/{self.id} "
                f"says what came of it."
            )
        if self.state == "failed":
            return f"The lock of {self.model_name!r} stays as it was. {self.error}"
        found = self.changes
        if found.is_empty and self.old == self.new:
            return f"Nothing changes: the lock of {self.model_name!r} holds what is newest."
        return (
            f"A new lock of {self.model_name!r} counts from now on; packages: {len(found.added)} "
            f"added, {len(found.removed)} removed, {len(found.changed)} changed."
        )


async def insert(
    connection: Connection, model_name: str, publication: int, *, requested_by: str
) -> UUID:
    """Store a request."""
    relock = uuid4()
    await execute(
        connection,
        """
        INSERT INTO relocks (id, model_name, publication, requested_by)
        VALUES (%(id)s, %(model)s, %(publication)s, %(by)s)
        """,
        id=relock,
        model=model_name,
        publication=publication,
        by=requested_by,
    )
    return relock


async def find(database: Database, relock: UUID) -> Relock | None:
    """Return a request, or ``None`` where there is none."""
    async with database.transaction() as connection:
        row = await fetch_one(
            connection,
            """
            SELECT r.*, p.revision, old.content AS old_content, new.content AS new_content
            FROM relocks AS r JOIN registry_publications AS p ON p.seq = r.publication
            LEFT JOIN locks AS old ON old.sha256 = r.old_lock_sha256
            LEFT JOIN locks AS new ON new.sha256 = r.new_lock_sha256
            WHERE r.id = %(id)s
            """,
            id=relock,
        )
    if row is None:
        return None
    return Relock(
        id=row["id"],
        model_name=row["model_name"],
        publication=row["publication"],
        revision=Revision(row["revision"]),
        requested_at=row["requested_at"],
        finished_at=row["finished_at"],
        old=Lock.parse(row["old_content"]) if row["old_content"] else None,
        new=Lock.parse(row["new_content"]) if row["new_content"] else None,
        error=row["error"],
        output_tail=row["output_tail"] or "",
    )


async def finish(database: Database, relock: UUID, old: Lock | None, new: Lock) -> None:
    """Write down which lock counted and which counts; both are stored."""
    await database.execute(
        """
        UPDATE relocks SET finished_at = clock_timestamp(), old_lock_sha256 = %(old)s,
            new_lock_sha256 = %(new)s
        WHERE id = %(id)s AND finished_at IS NULL
        """,
        id=relock,
        old=old.sha256 if old is not None else None,
        new=new.sha256,
    )


async def fail(database: Database, relock: UUID, error: PlatformError, output_tail: str) -> None:
    """Write down why there is no new lock."""
    await database.execute(
        """
        UPDATE relocks SET finished_at = clock_timestamp(), error = %(error)s,
            output_tail = %(tail)s
        WHERE id = %(id)s AND finished_at IS NULL
        """,
        id=relock,
        error=storable_text(str(error)),
        tail=storable_text(output_tail),
    )
