"""Cursors of the listing: what is handed out is understood, anything else refused."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.experiments.queries import list_experiments

MOMENT = datetime(2026, 8, 1, 12, 30, 15, 123456, UTC)
SUBMISSION = {
    "model_name": "flood",
    "model_commit": "0" * 40,
    "spec_source": "",
    "resolved_spec": {},
    "source": {"type": "s3", "uri": ""},
    "input_format": "",
    "parameters": {},
    "column_map": {},
    "band_map": {},
    "inputs": [],
    "random_seed": 1,
}


class OneRow:
    """Stands in for the database: always has one more experiment, and keeps what was asked."""

    def __init__(self, created_at: datetime, experiment_id: str) -> None:
        self.asked: dict[str, Any] = {}
        self._row = {
            "id": experiment_id,
            "status": "pending",
            "priority": "normal",
            "submitted_by": "a test",
            "created_at": created_at,
            "started_at": None,
            "finished_at": None,
            "attempt": 0,
            "worker": None,
            "queue_job_id": None,
            "reproduces": None,
            "submission": SUBMISSION,
            "outcome": {},
            "progress": None,
        }

    async def fetch_all(self, _query: str, **parameters: Any) -> list[dict[str, Any]]:
        self.asked = parameters
        return [self._row] * parameters["limit"]


def follow(database: OneRow, cursor: str | None) -> str | None:
    """Ask for a page of one experiment and return the next cursor."""

    async def ask() -> str | None:
        given = cast(Database, database)
        _, following = await list_experiments(given, limit=1, status=None, cursor=cursor)
        return following

    return anyio.run(ask)


def encode(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@given(
    st.datetimes(
        timezones=st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
    ),
    st.uuids().map(lambda made: made.hex),
)
def test_a_cursor_names_the_very_row_that_it_was_made_of(
    created_at: datetime, experiment_id: str
) -> None:
    database = OneRow(created_at, experiment_id)
    cursor = follow(database, None)
    assert database.asked["at"] is None
    assert cursor is not None
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&?# ")
    follow(database, cursor)
    assert database.asked["at"] == created_at
    assert database.asked["after"] == experiment_id


@pytest.mark.parametrize(
    "junk",
    [
        "x",
        "!!!",
        "\u00e3",
        "null",
        encode("null"),
        encode("not json"),
        encode("[" * 100),
        encode([]),
        encode([MOMENT.isoformat()]),
        encode([MOMENT.isoformat(), "0" * 32, 1]),
        encode([MOMENT.isoformat(), "0" * 31]),
        encode([MOMENT.isoformat(), "Z" * 32]),
        encode([MOMENT.isoformat(), "0" * 32 + "\n"]),
        encode([MOMENT.isoformat(), 7]),
        encode([MOMENT.isoformat(), None]),
        encode([MOMENT.replace(tzinfo=None).isoformat(), "0" * 32]),
        encode(["yesterday", "0" * 32]),
        encode([12345, "0" * 32]),
        encode({"at": MOMENT.isoformat(), "id": "0" * 32}),
        base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode(),
        encode([MOMENT.isoformat(), "0" * 32]) + "A" * 200,
        "A" * 100_000,
    ],
)
def test_junk_is_refused_and_named(junk: str) -> None:
    database = OneRow(MOMENT, "0" * 32)
    with pytest.raises(InvalidInput) as told:
        follow(database, junk)
    assert told.value.fields == {"cursor": "unknown cursor"}
    assert not database.asked


@given(st.text(min_size=1) | st.binary(min_size=1).map(lambda b: base64.b64encode(b).decode()))
def test_no_text_breaks_the_reading_of_cursors(text: str) -> None:
    database = OneRow(MOMENT, "0" * 32)
    with pytest.raises(InvalidInput):
        follow(database, text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=8,
    )
)
def test_no_json_breaks_the_reading_of_cursors(value: Any) -> None:
    with pytest.raises(InvalidInput):
        follow(OneRow(MOMENT, "0" * 32), encode(json.dumps(value)))


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_cursor_starts_at_the_newest(nothing: str | None) -> None:
    database = OneRow(MOMENT, "0" * 32)
    follow(database, nothing)
    assert database.asked["at"] is None
