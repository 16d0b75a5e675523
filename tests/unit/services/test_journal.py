"""What a journal notes of a run before it writes it down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dissmodel_platform.execution.events import (
    Change,
    LinesLeftOut,
    LogLine,
    PhaseStarted,
    Progress,
)
from dissmodel_platform.execution.line_gate import LineGate
from dissmodel_platform.services.journal import MOST_LINES, Journal, LogBounds


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def journal_with(clock: Clock, **bounds: Any) -> Journal:
    return Journal(cast(Any, None), cast(Any, None), LogBounds(**bounds), clock)


@pytest.fixture
def journal(clock: Clock) -> Journal:
    return journal_with(clock)


def state(journal: Journal) -> dict[str, Any]:
    _, progress = journal.take()
    assert progress is not None
    return progress


def test_entries_are_taken_once_and_in_order(journal: Journal) -> None:
    one, two = LogLine("stdout", "one"), LogLine("stderr", "two")
    journal.add(one)
    journal.add(PhaseStarted("run"))
    journal.add(two)
    assert journal.take() == ([one, Change("phase", {"phase": "run"}), two], {"phase": "run"})
    assert journal.take() == ([], None)


def test_beyond_the_bound_one_line_says_so(journal: Journal) -> None:
    for number in range(MOST_LINES + 100):
        journal.add(LogLine("stdout", str(number)))
    kept, _ = journal.take()
    assert len(kept) == MOST_LINES + 1
    assert cast(LogLine, kept[-1]).stream == "platform"
    journal.add(LogLine("stdout", "more"))
    journal.add(LinesLeftOut(7))
    assert journal.take() == ([], None)
    journal.add(LogLine("platform", "The platform always has the last word."))
    assert len(journal.take()[0]) == 1


def test_the_bound_of_bytes_counts_utf_8_and_the_ends_of_lines(clock: Clock) -> None:
    journal = journal_with(clock, most_bytes=12)
    for text in ("maré", "maré", "x"):
        journal.add(LogLine("stdout", text))
    assert journal.take()[0] == [
        LogLine("stdout", "maré"),
        LogLine("stdout", "maré"),
        LogLine("platform", "The model printed more than 12 bytes; the rest is not kept."),
    ]


def test_what_is_left_out_is_told_in_its_place(clock: Clock) -> None:
    journal = journal_with(clock, lines_per_second=7.5)
    journal.add(LogLine("stdout", "before"))
    journal.add(LinesLeftOut(1))
    journal.add(LinesLeftOut(30))
    journal.add(LogLine("stdout", "after"))
    assert [cast(LogLine, entry).text for entry in journal.take()[0]] == [
        "before",
        "1 line was left out: the model prints more than 7.5 lines a second.",
        "30 lines were left out: the model prints more than 7.5 lines a second.",
        "after",
    ]


def test_what_is_left_out_is_told_while_the_model_is_silent(clock: Clock) -> None:
    journal = journal_with(clock, lines_per_second=1)
    journal._gate = gate = LineGate(1, clock)
    gate.admit(15)
    assert journal.take()[0] == []  # it may go on printing
    clock.now += 2
    [told] = journal.take()[0]
    assert cast(LogLine, told).text.startswith("5 lines were left out")


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
    told = state(journal)
    told.pop("expected_end")
    assert told == {
        "phase": "run",
        "time": progress.time,
        "start": progress.start,
        "end": progress.end,
        "percent": percent,
    }


def expected_seconds(journal: Journal) -> float:
    """Return how far away the expected end is, in seconds."""
    end = datetime.fromisoformat(state(journal)["expected_end"])
    assert end.utcoffset() == timedelta(0)
    return (end - datetime.now(UTC)).total_seconds()


def test_the_expected_end_goes_on_as_the_run_has_gone_until_now(
    journal: Journal, clock: Clock
) -> None:
    journal.add(PhaseStarted("load"))
    clock.now += 500
    journal.add(PhaseStarted("run"))
    journal.add(Progress(2000, 2000, 2100))
    assert state(journal)["expected_end"] is None  # nothing is known yet
    clock.now += 60
    journal.add(Progress(2020, 2000, 2100))
    assert expected_seconds(journal) == pytest.approx(240, abs=10)
    clock.now += 60
    journal.add(Progress(2060, 2000, 2100))
    assert expected_seconds(journal) == pytest.approx(80, abs=10)
    journal.add(PhaseStarted("save"))
    assert "expected_end" not in state(journal)


@pytest.mark.parametrize("again", [Progress(0, 0, 10), Progress(50, 50, 60)])
def test_a_simulation_that_begins_anew_is_measured_anew(
    journal: Journal, clock: Clock, again: Progress
) -> None:
    journal.add(PhaseStarted("run"))
    clock.now += 10_000
    journal.add(Progress(9, 0, 10))
    journal.add(again)
    assert state(journal)["expected_end"] is None
    clock.now += 60
    journal.add(Progress(again.start + 5, again.start, again.end))
    assert expected_seconds(journal) == pytest.approx(60, abs=10)


def test_an_end_beyond_all_calendars_is_not_told(journal: Journal, clock: Clock) -> None:
    journal.add(PhaseStarted("run"))
    clock.now += 3600
    journal.add(Progress(1e-12, 0, 1e6))
    assert state(journal)["expected_end"] is None


def test_a_phase_is_entered_once_whatever_the_model_writes(journal: Journal, clock: Clock) -> None:
    journal.enter("staging")
    clock.now += 2
    for _ in range(1000):
        journal.add(PhaseStarted("run"))
        journal.add(PhaseStarted("load"))
    clock.now += 3
    entries, progress = journal.take()
    assert [cast(Change, entry).content["phase"] for entry in entries] == ["staging", "run", "load"]
    assert progress == {"phase": "load"}
    assert journal.phase_seconds() == {"staging": 2, "run": 0, "load": 3}


def test_the_history_of_a_long_run_is_bounded_and_ends_where_the_run_did(
    journal: Journal, clock: Clock
) -> None:
    journal.add(PhaseStarted("run"))
    for step in range(100_000):  # ten a second, of nearly three hours
        clock.now += 0.1
        journal.add(Progress(step, 0, 100_000))
    journal.add(PhaseStarted("save"))
    history = [e for e in journal.take()[0] if isinstance(e, Change) and e.kind == "progress"]
    assert 500 < len(history) < 3_000
    assert history[-1].content["time"] == 99_999


def test_a_run_that_tells_nothing_is_not_taken_for_one_that_does(journal: Journal) -> None:
    assert journal.take() == ([], None)
    assert journal.phase_seconds() == {}


def test_bounds_are_the_operators() -> None:
    settings = SimpleNamespace(run_log_bytes=5, run_log_lines_per_second=2.0)
    assert LogBounds.of(cast(Any, settings)) == LogBounds(5, 2.0)
