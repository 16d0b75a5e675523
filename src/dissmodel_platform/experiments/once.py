"""Submissions that are sent twice and must be one: after a lost answer, nobody knows better."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import SubmissionConflict
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.types import ExperimentId


@dataclass(frozen=True)
class Once:
    """What tells that two requests are one submission.

    Attributes
    ----------
    key : str or None
        The client's own name for it, unique among those of one caller.
    experiment_id : ExperimentId or None
        The id that the client has chosen for the experiment.
    request_sha256 : str
        Digest of everything that was asked for.
    """

    key: str | None
    experiment_id: ExperimentId | None
    request_sha256: str

    @classmethod
    def of(
        cls,
        request: str,
        content: Mapping[str, Any],
        *,
        key: str | None,
        experiment_id: ExperimentId | None = None,
    ) -> Once | None:
        """Return it for a request; ``None`` for one that has neither key nor id.

        Parameters
        ----------
        request : str
            What kind of request it is.
        content : mapping
            What is asked for, as JSON data.
        """
        if key is None and experiment_id is None:
            return None
        text = json.dumps([request, content], sort_keys=True)
        return cls(key, experiment_id, hashlib.sha256(text.encode()).hexdigest())


async def find_submitted(database: Database, submitted_by: str, once: Once) -> Experiment | None:
    """Return the experiment that a submission has led to before, if it has.

    Raises
    ------
    SubmissionConflict
        The key or the id stands for another submission.
    """
    row = await database.fetch_one(
        """
        SELECT * FROM experiments
        WHERE (submitted_by = %(by)s AND idempotency_key = %(key)s) OR id = %(id)s
        ORDER BY id = %(id)s NULLS FIRST LIMIT 1
        """,
        by=submitted_by,
        key=once.key,
        id=once.experiment_id,
    )
    if row is None:
        return None
    is_same = row["submitted_by"] == submitted_by and row["request_sha256"] == once.request_sha256
    if not is_same and once.key is not None and row["idempotency_key"] == once.key:
        raise SubmissionConflict(
            f"The Idempotency-Key {once.key!r} was sent before with another request, which became "
            f"experiment {row['id']}; use a new key for each submission."
        )
    if not is_same:
        raise SubmissionConflict(
            f"The experiment id {row['id']} is taken by another submission; choose a new one, or "
            f"leave experiment_id out."
        )
    return Experiment.from_row(row)
