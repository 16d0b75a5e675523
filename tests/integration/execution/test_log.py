"""What a run tells reaches the experiment's log and progress, whole and in order."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import datetime
from typing import Any

import pytest

from dissmodel_platform.execution.events import LogLine
from dissmodel_platform.services import journal
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
    runner = lab.runner(run_log_lines_per_second=1e6)
    experiment = await lab.run("chatty", {"lines": MOST_LINES + 5}, runner=runner)
    log = await lab.log(experiment)
    assert experiment.status == "completed"
    assert len(log) == MOST_LINES + 1
    assert log[-2].text == f"line {MOST_LINES - 1}"
    assert log[-1].text == f"The model printed more than {MOST_LINES} lines; the rest is not kept."


async def test_a_log_has_a_largest_size(lab: Any) -> None:
    experiment = await lab.run("chatty", {"lines": 1_000}, runner=lab.runner(run_log_bytes=70))
    assert experiment.status == "completed"
    assert [line.text for line in await lab.log(experiment)] == [
        *(f"line {number}" for number in range(10)),
        "The model printed more than 70 bytes; the rest is not kept.",
    ]


async def test_a_model_that_prints_too_fast_is_told_how_much_was_left_out(lab: Any) -> None:
    runner = lab.runner(run_log_lines_per_second=20)
    await lab.run("draws")  # its environment is there then
    begin = os.times()
    experiment = await lab.run("floods", {"seconds": 2}, runner=runner)
    used = sum(os.times()[:2]) - sum(begin[:2])
    assert experiment.status == "completed"
    log = await lab.log(experiment)
    left_out = [line.text for line in log if line.stream == "platform"]
    assert all(
        text.endswith(" lines were left out: the model prints more than 20 lines a second.")
        for text in left_out
    )
    kept = [line.text for line in log if line.stream == "stdout"]
    assert 200 <= len(kept) <= 400
    assert set(kept) == {"y"}
    told = len(kept) + sum(int(text.split()[0]) for text in left_out)
    assert told == int(await lab.result(experiment))
    assert used < 1.5  # seconds of this process; taking all that apart costs many


async def test_whatever_a_model_writes_to_the_pipe_of_events_is_bounded(lab: Any) -> None:
    await lab.run("draws")
    begin = os.times()
    experiment = await lab.run("floods-events", {"seconds": 2})
    used = sum(os.times()[:2]) - sum(begin[:2])
    assert experiment.status == "completed"
    assert json.loads(await lab.result(experiment)) >= 1
    events = await lab.database.fetch_all(
        "SELECT kind, content FROM experiment_events WHERE experiment_id = %(id)s ORDER BY seq",
        id=experiment.id,
    )
    phases = [event["content"]["phase"] for event in events if event["kind"] == "phase"]
    assert len(phases) == len(set(phases))
    assert len(events) < 40
    assert used < 1.5


async def test_the_history_of_a_run_has_every_phase_in_order_with_its_time(lab: Any) -> None:
    grid = await lab.upload(json.dumps([1.0]), "grid.json")
    experiment = await lab.run("growth", {"end_time": 3}, input_dataset=grid)
    events = await lab.database.fetch_all(
        "SELECT * FROM experiment_events WHERE experiment_id = %(id)s ORDER BY seq",
        id=experiment.id,
    )
    told = [(event["kind"], event["content"]) for event in events]
    assert [content["phase"] for kind, content in told if kind == "phase"] == [
        "building", "staging", "starting", "validate", "load", "run", "save", "collecting",
    ]  # fmt: skip
    states = [content["status"] for kind, content in told if kind == "status"]
    assert states == ["pending", "running", "completed"]
    assert told[-1][0] == "status"
    times = [event["at"] for event in events if event["kind"] == "phase"]
    assert times == sorted(times)
    assert experiment.started_at <= times[0]
    assert times[-1] <= experiment.finished_at
    assert experiment.progress["percent"] == 100
    assert (experiment.progress["phase"], "expected_end" in experiment.progress) == (
        "collecting", False,
    )  # fmt: skip


async def test_a_line_has_the_time_at_which_it_was_printed(lab: Any) -> None:
    """Not that of its row: while the database was locked, no row could be written."""
    experiment = await lab.submit("waits", {"seconds": 1})
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    async with lab.database.transaction() as connection:
        await connection.execute(
            "SELECT FROM experiments WHERE id = %s FOR UPDATE", (experiment.id,)
        )
        await asyncio.sleep(3)
        row = await (await connection.execute("SELECT clock_timestamp() AS at")).fetchone()
    await running
    last = await lab.database.fetch_one(
        "SELECT at FROM experiment_logs WHERE experiment_id = %(id)s ORDER BY seq DESC LIMIT 1",
        id=experiment.id,
    )
    phases = await lab.database.fetch_all(
        "SELECT at FROM experiment_events WHERE experiment_id = %(id)s"
        " AND content->>'phase' = 'save'",
        id=experiment.id,
    )
    assert last["at"] < row["at"]
    assert phases[0]["at"] < row["at"]


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
    expected = [datetime.fromisoformat(p["expected_end"]) for p in in_run if p["expected_end"]]
    finished = (await lab.get(experiment)).finished_at
    assert expected
    assert abs((expected[-1] - finished).total_seconds()) < 5


async def test_every_line_is_in_the_log_within_a_second(lab: Any) -> None:
    """Measured by the database: from the print to the commit that shows it, most of the time."""
    experiment = await lab.submit("ticks", {"seconds": 4})
    running = asyncio.create_task(lab.runner().run(experiment.id))
    seen: dict[int, float] = {}
    while not running.done():
        for row in await lab.database.fetch_all(
            "SELECT seq, extract(epoch FROM clock_timestamp() - at) AS age FROM experiment_logs"
            " WHERE experiment_id = %(id)s",
            id=experiment.id,
        ):
            seen.setdefault(row["seq"], float(row["age"]))
        await asyncio.sleep(0.02)
    await running
    delays = sorted(seen.values())
    assert len(delays) >= 20
    assert delays[len(delays) // 2] <= 0.6
    assert delays[len(delays) * 9 // 10] <= 1.0, delays


async def test_lines_reach_the_log_while_the_model_still_runs(lab: Any) -> None:
    experiment = await lab.submit("waits", {"seconds": 600})
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_a_run_told_before_it_was_stopped_is_kept(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 600)  # nothing is written in between
    read = asyncio.Event()
    add = journal.Journal.add

    def noticed(self: journal.Journal, event: Any) -> None:
        add(self, event)
        if isinstance(event, LogLine):
            read.set()

    monkeypatch.setattr(journal.Journal, "add", noticed)
    experiment = await lab.submit("waits")
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await asyncio.wait_for(read.wait(), 120)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    first, last = await lab.log(experiment)
    assert first.text.startswith("waiting as ")
    assert last.text.startswith("Attempt 1 ended because its worker is being stopped")


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
