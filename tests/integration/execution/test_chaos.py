"""Nothing is lost and nothing is there twice, whatever is killed meanwhile: a small chaos run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.chaos import Plan, run

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc"),
]


async def test_a_small_chaos_run_loses_nothing_and_publishes_nothing_twice(
    tmp_path: Path, packages_directory: Path
) -> None:
    plan = Plan(experiments=20, seed=4, workers=2, packages=packages_directory, pause_seconds=0.3)
    tally = await run(plan, tmp_path)
    assert tally.is_sound, tally.lines() + (tmp_path / "workers.log").read_text().splitlines()[-50:]
    assert (tally.accepted, tally.lost, tally.duplicated) == (20, 0, 0)
    assert tally.completed + tally.failed.total() == 20
    assert tally.broken
