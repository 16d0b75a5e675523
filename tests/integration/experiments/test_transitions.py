"""Each transition happens from the states it names, once, and for the attempt that owns it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.execution.events import Change, LogLine
from dissmodel_platform.execution.outputs import Artifact
from dissmodel_platform.experiments.queries import get_experiment, list_artifacts, log_lines
from dissmodel_platform.experiments.queue import enqueue_run
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.transitions import (
    MOST_LOSSES,
    cancel,
    claim,
    complete,
    fail,
    hand_back,
    report,
)
from dissmodel_platform.services.cancel import cancel_experiment
from dissmodel_platform.types import Priority, Sha256

pytestmark = pytest.mark.anyio

Submit = Callable[..., Awaitable[Experiment]]

WORKER, OTHER = uuid4(), uuid4()


def artifact(experiment: Experiment, name: str = "result.tif") -> Artifact:
    uri = f"s3://dissmodel-outputs/experiments/{experiment.id}/{name}"
    return Artifact(name, uri, Sha256("cd" * 32), 7, "image/tiff")


async def claimed(database: Database, experiment: Experiment, worker: UUID = WORKER) -> Experiment:
    taken = await claim(database, experiment.id, worker)
    assert taken is not None
    return taken


async def finish(database: Database, attempt: Experiment) -> bool:
    async with database.transaction() as connection:
        return await complete(
            connection, attempt, {"metrics": {}}, [artifact(attempt)], [LogLine("stdout", "end")]
        )


async def give_back(database: Database, attempt: Experiment, *, lost: bool = True) -> str | None:
    async with database.transaction() as connection:
        return await hand_back(connection, attempt, lost=lost)


async def take_away(database: Database, experiment: Experiment) -> Experiment | None:
    async with database.transaction() as connection:
        return await cancel(connection, experiment.id)


async def test_a_claim_counts_the_attempt_and_names_the_worker(
    database: Database, submit: Submit
) -> None:
    experiment = await submit()
    assert (experiment.status, experiment.attempt, experiment.started_at) == ("pending", 0, None)
    taken = await claimed(database, experiment)
    assert (taken.status, taken.attempt, taken.worker) == ("running", 1, str(WORKER))
    assert taken.started_at is not None
    assert taken.started_at >= experiment.created_at
    assert await claim(database, experiment.id, OTHER) is None


async def test_of_many_claims_at_once_one_gets_the_experiment(
    database: Database, submit: Submit
) -> None:
    for _ in range(5):
        experiment = await submit()
        taken = await asyncio.gather(*(claim(database, experiment.id, uuid4()) for _ in range(8)))
        [winner] = [attempt for attempt in taken if attempt is not None]
        assert winner.attempt == 1
        assert (await get_experiment(database, experiment.id)).worker == winner.worker


async def test_a_result_is_published_whole(database: Database, submit: Submit) -> None:
    attempt = await claimed(database, await submit())
    assert await report(database, attempt, [LogLine("stdout", "one")], {"phase": "run"})
    assert await finish(database, attempt)
    ended = await get_experiment(database, attempt.id)
    assert (ended.status, ended.outcome, ended.progress) == (
        "completed", {"metrics": {}}, {"phase": "run"},
    )  # fmt: skip
    assert ended.finished_at is not None
    assert await log_lines(database, attempt.id) == ["one", "end"]
    [kept] = await list_artifacts(database, attempt.id)
    assert kept == artifact(attempt).as_json()
    indexed = await database.fetch_one(
        "SELECT sha256 FROM objects WHERE uri = %(uri)s", uri=kept["uri"]
    )
    assert indexed == {"sha256": kept["sha256"]}


async def test_a_result_that_cannot_be_written_whole_is_not_written_at_all(
    database: Database, submit: Submit
) -> None:
    attempt = await claimed(database, await submit())
    twice = [artifact(attempt), artifact(attempt)]
    with pytest.raises(Exception, match="duplicate key"):
        async with database.transaction() as connection:
            await complete(connection, attempt, {}, twice, [LogLine("stdout", "end")])
    assert (await get_experiment(database, attempt.id)).status == "running"
    assert await list_artifacts(database, attempt.id) == []
    assert await log_lines(database, attempt.id) == []


async def test_a_late_attempt_writes_nothing(database: Database, submit: Submit) -> None:
    late = await claimed(database, await submit())
    assert await give_back(database, late) == "pending"
    current = await claimed(database, late, OTHER)
    assert current.attempt == 2

    assert not await report(database, late, [LogLine("stdout", "late")], {"percent": 99})
    assert not await finish(database, late)
    assert not await fail(database, late, {"late": True}, [LogLine("platform", "late")])
    assert await give_back(database, late) is None

    now = await get_experiment(database, late.id)
    assert (now.status, now.worker, now.outcome, now.progress) == (
        "running", str(OTHER), {}, None,
    )  # fmt: skip
    assert await log_lines(database, late.id) == []
    assert await list_artifacts(database, late.id) == []
    assert await finish(database, current)


@pytest.mark.parametrize("how", ["complete", "fail", "cancel"])
async def test_nothing_leaves_a_final_state(database: Database, submit: Submit, how: str) -> None:
    attempt = await claimed(database, await submit())
    if how == "complete":
        assert await finish(database, attempt)
    elif how == "fail":
        assert await fail(database, attempt, {}, [])
    else:
        assert await take_away(database, attempt) is not None
    before = await get_experiment(database, attempt.id)

    assert await claim(database, attempt.id, OTHER) is None
    assert not await report(database, attempt, [LogLine("stdout", "late")], None)
    assert not await finish(database, attempt)
    assert not await fail(database, attempt, {"late": True}, [])
    assert await give_back(database, attempt) is None
    assert await take_away(database, attempt) is None
    assert await get_experiment(database, attempt.id) == before


async def test_a_pending_experiment_has_nothing_to_end(database: Database, submit: Submit) -> None:
    experiment = await submit()
    assert not await finish(database, experiment)
    assert not await fail(database, experiment, {}, [])
    assert await give_back(database, experiment) is None
    assert (await get_experiment(database, experiment.id)).status == "pending"


async def test_cancel_and_complete_at_once_give_one_winner_and_no_half(
    database: Database, submit: Submit
) -> None:
    seen = set()
    for _ in range(20):
        attempt = await claimed(database, await submit())
        completed, cancelled = await asyncio.gather(
            finish(database, attempt), take_away(database, attempt)
        )
        assert completed is (cancelled is None)
        ended = await get_experiment(database, attempt.id)
        assert ended.status == ("completed" if completed else "cancelled")
        assert len(await list_artifacts(database, attempt.id)) == (1 if completed else 0)
        seen.add(ended.status)
    assert seen <= {"completed", "cancelled"}


async def test_the_last_loss_that_is_allowed_fails_the_experiment(
    database: Database, submit: Submit
) -> None:
    experiment = await submit()
    for attempt in range(1, MOST_LOSSES + 1):
        taken = await claimed(database, experiment)
        assert taken.attempt == attempt
        status = await give_back(database, taken)
        assert status == ("failed" if attempt == MOST_LOSSES else "pending")
    ended = await get_experiment(database, experiment.id)
    assert (ended.status, ended.attempt) == ("failed", MOST_LOSSES)
    assert ended.finished_at is not None


async def test_an_attempt_that_a_stopped_worker_hands_back_is_no_loss(
    database: Database, submit: Submit
) -> None:
    experiment = await submit()
    for _ in range(MOST_LOSSES + 2):
        assert await give_back(database, await claimed(database, experiment), lost=False) == (
            "pending"
        )
    again = await get_experiment(database, experiment.id)
    assert (again.worker, again.started_at, again.progress) == (None, None, None)


async def test_the_row_and_its_job_are_written_together_or_not_at_all(
    database: Database, queue: App, submit: Submit
) -> None:
    experiment = await submit(Priority.HIGH)
    [job] = await jobs(database)
    assert job["args"] == {"experiment_id": experiment.id}
    assert (job["status"], job["priority"]) == ("todo", Priority.HIGH.rank)
    row = await get_experiment(database, experiment.id)
    assert row.queue_job_id == job["id"]

    with pytest.raises(RuntimeError, match="after the job"):
        async with database.transaction() as connection:
            await enqueue_run(queue, connection, experiment.id, Priority.LOW)
            raise RuntimeError("after the job")
    assert [found["id"] for found in await jobs(database)] == [job["id"]]


async def test_cancelling_a_pending_experiment_takes_its_job_out_of_the_queue(
    database: Database, queue: App, submit: Submit
) -> None:
    experiment = await submit()
    cancelled = await cancel_experiment(database, queue, experiment.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    assert await jobs(database) == []


async def test_text_that_postgresql_does_not_hold_is_written_in_its_place(
    database: Database, submit: Submit
) -> None:
    attempt = await claimed(database, await submit())
    assert await report(database, attempt, [LogLine("stderr", "a\0b\ud800c")], None)
    assert await log_lines(database, attempt.id) == ["a\N{SYMBOL FOR NULL}b?c"]


async def jobs(database: Database) -> list[dict[str, object]]:
    return await database.fetch_all(
        "SELECT id, args, status::text, priority FROM procrastinate_jobs ORDER BY id"
    )


async def history(database: Database, experiment: Experiment) -> list[str]:
    """Return everything that is kept of an experiment in its order, lines and events alike."""
    rows = await database.fetch_all(
        """
        SELECT seq, line AS told FROM experiment_logs WHERE experiment_id = %(id)s
        UNION ALL
        SELECT seq, kind || ' ' || coalesce(content->>kind, content->>'time')
        FROM experiment_events WHERE experiment_id = %(id)s
        ORDER BY seq
        """,
        id=experiment.id,
    )
    return [row["told"] for row in rows]


async def test_lines_and_events_are_one_history_that_a_final_state_ends(
    database: Database, submit: Submit
) -> None:
    attempt = await claimed(database, await submit())
    told = [
        Change("phase", {"phase": "load"}),
        LogLine("stdout", "one"),
        Change("progress", {"time": 5}),
        LogLine("stderr", "two"),
        Change("phase", {"phase": "run"}),
    ]
    assert await report(database, attempt, told, {"phase": "run"})
    assert await give_back(database, attempt) == "pending"
    again = await claimed(database, attempt)
    assert await finish(database, again)
    assert await history(database, attempt) == [
        "status pending", "status running",
        "phase load", "one", "progress 5", "two", "phase run",
        "status pending", "status running", "end", "status completed",
    ]  # fmt: skip


async def test_what_several_write_at_once_becomes_visible_in_the_order_of_its_numbers(
    database: Database, submit: Submit
) -> None:
    """A reader that goes on behind the last number it has seen must not miss a smaller one."""
    attempt = await claimed(database, await submit())
    seen: list[int] = []
    writing = asyncio.gather(
        *(report(database, attempt, [LogLine("stdout", "x")] * 3, None) for _ in range(40)),
        *(report(database, attempt, [], {"percent": n}) for n in range(10)),
        *(report(database, attempt, [LogLine("stdout", "y")], {"percent": 1}) for n in range(10)),
    )
    while not writing.done():
        rows = await database.fetch_all(
            "SELECT seq FROM experiment_logs WHERE experiment_id = %(id)s AND seq > %(after)s"
            " ORDER BY seq",
            id=attempt.id,
            after=seen[-1] if seen else 0,
        )
        seen += [row["seq"] for row in rows]
    await writing
    row = await database.fetch_one(
        "SELECT array_agg(seq ORDER BY seq) AS numbers FROM experiment_logs"
        " WHERE experiment_id = %(id)s AND seq <= %(last)s",
        id=attempt.id,
        last=seen[-1],
    )
    assert row == {"numbers": seen}


async def test_a_run_that_tells_nothing_writes_nothing(database: Database, submit: Submit) -> None:
    attempt = await claimed(database, await submit())
    place = "SELECT ctid, xmin, xmax FROM experiments"
    before = await database.fetch_all(place)
    for _ in range(3):
        assert await report(database, attempt, [], None)
    assert await database.fetch_all(place) == before


async def test_progress_leaves_the_indexes_alone(database: Database, submit: Submit) -> None:
    attempt = await claimed(database, await submit())
    query = b"SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = %s"
    async with database.transaction() as connection:

        async def updates() -> tuple[int, int]:
            row = await (await connection.execute(query, ("experiments",))).fetchone()
            assert row is not None
            return row["n_tup_hot_upd"], row["n_tup_upd"]

        hot, whole = await updates()
        for percent in range(20):
            await connection.execute(
                "UPDATE experiments SET progress = %s WHERE id = %s",
                (f'{{"percent": {percent}}}', attempt.id),
            )
        hot_after, whole_after = await updates()
    assert whole_after - whole == 20
    assert hot_after - hot >= 18


async def test_the_time_of_a_line_is_that_of_its_reading_by_the_databases_clock(
    database: Database, submit: Submit
) -> None:
    attempt = await claimed(database, await submit())
    now = time.monotonic()
    lines = [LogLine("stdout", str(age), now - age) for age in (60, 5, 0)]
    assert await report(database, attempt, lines, None)
    rows = await database.fetch_all(
        "SELECT extract(epoch FROM clock_timestamp() - at)::float8 AS age FROM experiment_logs"
        " ORDER BY seq"
    )
    assert [row["age"] for row in rows] == pytest.approx([60, 5, 0], abs=3)
