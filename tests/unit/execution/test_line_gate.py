"""How many lines pass, and how many are counted."""

from __future__ import annotations

import pytest

from dissmodel_platform.execution.line_gate import LineGate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_lines_of_ten_seconds_may_come_at_once(clock: Clock) -> None:
    gate = LineGate(5, clock)
    assert gate.admit(50) == 50
    assert not gate.is_shut()
    assert gate.admit(2) == 0
    assert gate.is_shut()
    assert gate.take_left_out() == 2
    assert gate.take_left_out() == 0


def test_an_empty_bucket_opens_again_with_the_lines_of_a_second(clock: Clock) -> None:
    gate = LineGate(5, clock)
    gate.admit(51)
    clock.now += 0.9
    assert gate.is_shut()
    clock.now += 0.2
    assert not gate.is_shut()
    assert gate.admit(10) == 5
    clock.now += 3600
    assert gate.admit(100) == 50


def test_a_closed_gate_counts_nothing(clock: Clock) -> None:
    gate = LineGate(1, clock)
    gate.admit(20)
    gate.close()
    assert gate.admit(5) == 0
    assert gate.take_left_out() == 0
    clock.now += 3600
    assert gate.is_shut()


def test_a_rate_below_one_still_lets_a_line_pass(clock: Clock) -> None:
    gate = LineGate(0.01, clock)
    assert gate.admit(2) == 1
    clock.now += 99
    assert gate.admit(1) == 0
    clock.now += 2
    assert gate.admit(1) == 1
