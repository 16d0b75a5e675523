"""What a journal notes of a run before it writes it down."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dissmodel_platform.execution.events import LogLine, PhaseStarted, Progress
from dissmodel_platform.services.journal import MOST_LINES, Journal


@pytest.fixture
def journal() -> Journal:
    return Journal(cast(Any, None), cast(Any, None))


def test_lines_are_taken_once_and_in_order(journal: Journal) -> None:
    lines = [LogLine("stdout", "one"), LogLine("stderr", "two")]
    for line in lines:
        journal.add(line)
    assert journal.take_lines() == lines
    assert journal.take_lines() == []


def test_beyond_the_bound_one_line_says_so(journal: Journal) -> None:
    for number in range(MOST_LINES + 100):
        journal.add(LogLine("stdout", str(number)))
    kept = journal.take_lines()
    assert len(kept) == MOST_LINES + 1
    assert kept[-1].stream == "platform"
    journal.add(LogLine("stdout", "more"))
    assert journal.take_lines() == []


@pytest.mark.parametrize(
    ("progress", "percent"),
    [
        (Progress(0, 0, 10), 0.0),
        (Progress(1, 0, 3), 33.3),
        (Progress(2025, 2000, 2050), 50.0),
        (Progress(11, 0, 10), 100.0),  # the clock stands one step after the end
        (Progress(-1, 0, 10), 0.0),
    ],
)
def test_percent_is_the_part_of_the_simulated_time(
    journal: Journal, progress: Progress, percent: float
) -> None:
    journal.add(PhaseStarted("run"))
    journal.add(progress)
    assert journal._progress == {
        "phase": "run",
        "time": progress.time,
        "start": progress.start,
        "end": progress.end,
        "percent": percent,
    }
