"""What a run tells reaches the experiment's log and progress, whole and in order."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dissmodel_platform.services.journal import MOST_LINES

pytestmark = pytest.mark.anyio


async def test_both_streams_and_the_records_own_lines_are_kept(lab: Any) -> None:
    experiment = await lab.run("prints")
    log = await lab.log(experiment)
    assert [(line.stream, line.text) for line in log if line.stream == "stdout"] == [
        ("stdout", "to standard output: maré alta"),
        ("stdout", "bytes \N{REPLACEMENT CHARACTER}\N{SYMBOL FOR NULL} and no end of the line"),
    ]
    assert ("stderr", "to standard error") in [(line.stream, line.text) for line in log]
    assert (log[-1].stream, log[-1].text) == ("record", "to the record")


async def test_no_line_of_many_is_lost_or_out_of_order(lab: Any) -> None:
    experiment = await lab.run("chatty", {"lines": 5_000})
    printed = [line.text for line in await lab.log(experiment)]
    assert printed == [f"line {number}" for number in range(5_000)]


async def test_a_model_that_prints_without_end_is_bounded_and_told_so(lab: Any) -> None:
    experiment = await lab.run("chatty", {"lines": MOST_LINES + 5})
    log = await lab.log(experiment)
    assert experiment.status == "completed"
    assert len(log) == MOST_LINES + 1
    assert log[-2].text == f"line {MOST_LINES - 1}"
    assert log[-1].text == f"The model printed more than {MOST_LINES} lines; the rest is not kept."


async def test_phase_time_and_percent_are_seen_while_the_model_runs(lab: Any) -> None:
    grid = await lab.upload(json.dumps([1.0]), "grid.json")
    experiment = await lab.submit("growth", {"end_time": 8, "pause": 0.2}, input_dataset=grid)
    running = asyncio.create_task(lab.runner().run(experiment.id))
    seen = []
    while not running.done():
        seen.append((await lab.get(experiment)).progress)
        await asyncio.sleep(0.05)
    await running
    in_run = [p for p in seen if p and p.get("phase") == "run" and "time" in p]
    assert in_run, seen
    assert all((p["start"], p["end"]) == (0, 8) for p in in_run)
    times = [p["time"] for p in in_run]
    assert times == sorted(times)
    assert len(set(times)) > 1
    assert all(p["percent"] == pytest.approx(100 * p["time"] / 8, abs=0.1) for p in in_run)


async def test_lines_reach_the_log_while_the_model_still_runs(lab: Any) -> None:
    experiment = await lab.submit("waits", {"seconds": 600})
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_database_that_is_away_for_a_moment_costs_neither_run_nor_lines(lab: Any) -> None:
    experiment = await lab.submit("waits", {"seconds": 1})
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    for _ in range(3):
        await lab.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.1)
    await running
    ended = await lab.get(experiment)
    assert (ended.status, ended.attempt) == ("completed", 1), await lab.log(ended)
