"""Listing and finding experiments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import ExperimentNotFound, InvalidInput
from dissmodel_platform.execution.events import LogLine
from dissmodel_platform.experiments.queries import (
    MOST_LOG_LINES,
    count_experiments,
    get_experiment,
    last_log_lines,
    list_experiments,
    log_lines,
)
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.transitions import append_log, cancel
from dissmodel_platform.types import ExperimentStatus

pytestmark = pytest.mark.anyio

Submit = Callable[..., Awaitable[Experiment]]


async def test_pages_follow_one_another_without_gap_or_repetition(
    database: Database, submit: Submit
) -> None:
    submitted = [await submit() for _ in range(7)]
    await database.execute("UPDATE experiments SET created_at = '2026-01-01Z'")  # all at once
    seen: list[str] = []
    cursor: str | None = None
    for expected in (3, 3, 1):
        page, cursor = await list_experiments(database, limit=3, status=None, cursor=cursor)
        assert len(page) == expected
        seen += [experiment.id for experiment in page]
    assert cursor is None
    assert sorted(seen) == sorted(experiment.id for experiment in submitted)
    assert seen == sorted(seen, reverse=True)


async def test_a_listing_can_be_of_one_state(database: Database, submit: Submit) -> None:
    first, second = await submit(), await submit()
    async with database.transaction() as connection:
        await cancel(connection, first.id)
    page, following = await list_experiments(
        database, limit=10, status=ExperimentStatus.PENDING, cursor=None
    )
    assert ([experiment.id for experiment in page], following) == ([second.id], None)
    assert await count_experiments(database, ExperimentStatus.CANCELLED) == 1
    assert await count_experiments(database, None) == 2


@pytest.mark.parametrize(
    "unknown", ["", "x", "0" * 31, "0" * 32, "0" * 33, "\0" * 32, "\ud800", "٣" * 32, "%", "../x"]
)
async def test_an_id_that_nobody_has_is_not_found(database: Database, unknown: str) -> None:
    with pytest.raises(ExperimentNotFound):
        await get_experiment(database, unknown)


async def test_an_id_may_be_written_as_a_uuid(database: Database, submit: Submit) -> None:
    experiment = await submit()
    plain = experiment.id
    written = f"{plain[:8]}-{plain[8:12]}-{plain[12:16]}-{plain[16:20]}-{plain[20:]}".upper()
    assert (await get_experiment(database, written)).id == plain


async def test_a_cursor_of_another_making_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput) as refused:
        await list_experiments(database, limit=10, status=None, cursor="bm9uZQ")
    assert list(refused.value.fields) == ["cursor"]


async def test_the_last_lines_of_a_log_are_shown_oldest_first(
    database: Database, submit: Submit
) -> None:
    experiment, silent = await submit(), await submit()
    lines = [LogLine("stdout", str(number)) for number in range(MOST_LOG_LINES + 10)]
    async with database.transaction() as connection:
        await append_log(connection, experiment.id, 1, lines)
    shown = await log_lines(database, experiment.id)
    assert shown == [str(number) for number in range(10, MOST_LOG_LINES + 10)]
    assert await last_log_lines(database, [experiment.id, silent.id]) == {
        experiment.id: [str(MOST_LOG_LINES + 9)]
    }
