"""Commits that wait for an administrator instead of being published by themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from dissmodel_platform.database.pool import Connection, Database, execute, fetch_one
from dissmodel_platform.errors import RevisionNotFound
from dissmodel_platform.registry.mirror_reader import Relation
from dissmodel_platform.registry.snapshot import SnapshotChange
from dissmodel_platform.types import Revision

_COMMIT = re.compile(r"[0-9a-f]{7,64}")

OnRewrite = Literal["accept", "hold"]

FEWEST_WITHDRAWN = 5
"""Withdrawing fewer models than this is never held."""

NO_MODELS = "no-models-directory"
"""Code of the problem of a commit without ``models/``."""

LARGEST_SHARE = 0.3
"""Share of the served models that one commit may withdraw by itself."""


@dataclass(frozen=True)
class Hold:
    """A commit that waits, and why."""

    revision: Revision
    reason: str
    held_at: datetime


def may_withdraw_many(change: SnapshotChange) -> bool:
    """Say whether it is worth counting what a commit withdraws."""
    return change.base is None or len(change.removed) >= FEWEST_WITHDRAWN or _lacks_models(change)


def _lacks_models(change: SnapshotChange) -> bool:
    return any(problem.code == NO_MODELS for problem in change.problems)


def reason_to_hold(
    change: SnapshotChange,
    served: frozenset[str],
    relation: Relation | None,
    on_rewrite: OnRewrite,
) -> str | None:
    """Say why a commit should not be published by itself.

    Parameters
    ----------
    change : SnapshotChange
        The commit.
    served : frozenset of str
        Names of the models that are served now; may be empty unless :func:`may_withdraw_many`.
    relation : Relation or None
        How the commit stands to the published one; ``None`` before the first publication.
    on_rewrite : {"accept", "hold"}
        What the operator wants of a history that was rewritten.
    """
    withdrawn = served - change.present
    if served and _lacks_models(change):
        return "The commit has no models/ directory, so it would withdraw every model."
    if len(withdrawn) >= FEWEST_WITHDRAWN and len(withdrawn) > LARGEST_SHARE * len(served):
        return f"The commit would withdraw {len(withdrawn)} of {len(served)} models at once."
    if on_rewrite == "hold" and relation in (Relation.REWRITE, Relation.REWIND):
        return (
            "The branch's history was rewritten (PLATFORM_REGISTRY_ON_REWRITE=hold): the commit "
            "does not follow the published one."
        )
    return None


async def is_accepted(database: Database, revision: Revision, base: Revision) -> bool:
    """Say whether an administrator has accepted a commit as the one to follow ``base``."""
    row = await database.fetch_one(
        "SELECT base, accepted_at FROM registry_holds WHERE revision = %(revision)s",
        revision=revision,
    )
    return row is not None and row["accepted_at"] is not None and row["base"] == base


async def hold(connection: Connection, revision: Revision, base: Revision, reason: str) -> None:
    """Note that a commit waits; others that wait and were not accepted wait no more.

    Parameters
    ----------
    base : Revision
        The commit that is published meanwhile.
    """
    await execute(
        connection,
        "DELETE FROM registry_holds WHERE accepted_at IS NULL AND revision <> %(revision)s",
        revision=revision,
    )
    await execute(
        connection,
        """
        INSERT INTO registry_holds AS h (revision, base, reason)
        VALUES (%(revision)s, %(base)s, %(reason)s)
        ON CONFLICT (revision) DO UPDATE
        SET reason = excluded.reason, base = excluded.base,
            accepted_at = CASE WHEN h.base = excluded.base THEN h.accepted_at END,
            accepted_by = CASE WHEN h.base = excluded.base THEN h.accepted_by END
        """,
        revision=revision,
        base=base,
        reason=reason,
    )


async def release_holds(connection: Connection) -> None:
    """Forget what waited and what was accepted: the branch's head is published."""
    await execute(connection, "DELETE FROM registry_holds")


async def waiting_hold(database: Database) -> Hold | None:
    """Return the commit that waits, if one does."""
    row = await database.fetch_one(
        "SELECT * FROM registry_holds WHERE accepted_at IS NULL ORDER BY held_at DESC LIMIT 1"
    )
    return None if row is None else Hold(Revision(row["revision"]), row["reason"], row["held_at"])


async def accept(database: Database, commit: str, *, accepted_by: str) -> Revision:
    """Accept the commit that waits; the next sync publishes it.

    Parameters
    ----------
    commit : str
        At least 7 digits of the commit that is meant, so that no other one is accepted by mistake.

    Raises
    ------
    RevisionNotFound
        No such commit waits, or several begin like that.
    """
    wanted = commit.strip().lower()
    row = None
    if _COMMIT.fullmatch(wanted):
        async with database.transaction() as connection:
            row = await fetch_one(
                connection,
                """
                UPDATE registry_holds
                SET accepted_at = coalesce(accepted_at, clock_timestamp()),
                    accepted_by = coalesce(accepted_by, %(by)s)
                WHERE starts_with(revision, %(commit)s)
                  AND 1 = (SELECT count(*) FROM registry_holds
                           WHERE starts_with(revision, %(commit)s))
                RETURNING revision
                """,
                commit=wanted,
                by=accepted_by,
            )
    if row is None:
        raise RevisionNotFound(
            f"No commit {commit!r} is waiting to be accepted; `dissmodel-platform registry status` "
            f"names the one that waits, if one does."
        )
    return Revision(row["revision"])
