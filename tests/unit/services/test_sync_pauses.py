"""How long a sync process waits before it looks again."""

from __future__ import annotations

import pytest

from dissmodel_platform.services.sync import _pause_seconds


def pauses(interval_seconds: float, failures: int) -> list[float]:
    return [_pause_seconds(interval_seconds, failures) for _ in range(300)]


def test_servers_that_start_together_do_not_look_together() -> None:
    drawn = pauses(900, failures=0)
    assert 800 < min(drawn) < 860
    assert 940 < max(drawn) < 1000
    assert len(set(drawn)) > 250


@pytest.mark.parametrize(("failures", "seconds"), [(1, 5), (2, 10), (3, 20), (6, 160), (9, 900)])
def test_a_failure_is_retried_soon_and_ever_less_often(failures: int, seconds: float) -> None:
    drawn = pauses(900, failures)
    assert seconds * 0.89 < min(drawn) < seconds < max(drawn) < seconds * 1.11


def test_a_failure_is_never_retried_later_than_at_the_interval() -> None:
    assert max(pauses(3, failures=1)) < 3.4
    assert max(pauses(900, failures=100_000)) < 1000
