"""What workers count is added up, never shrinks, and is what Prometheus reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from procrastinate import App
from prometheus_client.parser import text_string_to_metric_families

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.recovery import forget_worker, register_worker
from dissmodel_platform.experiments.transitions import claim
from dissmodel_platform.services.metrics import render_metrics
from dissmodel_platform.services.tally import BUILD_SECONDS, PHASE_SECONDS, RUN_STARTS, Tally
from tests.integration.experiments.conftest import queue, submit

__all__ = ["queue", "submit"]

pytestmark = pytest.mark.anyio


async def figures(database: Database) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels, in the order of their names."""
    text = (await render_metrics(database)).decode()
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_before_anything_was_counted_the_series_are_there(database: Database) -> None:
    found = await figures(database)
    for result in ("hit", "miss", "fresh"):
        assert found["dissmodel_fork_server_requests_total", result] == 0
    assert found["dissmodel_worker_slots",] == found["dissmodel_worker_slots_busy",] == 0


async def test_the_counts_of_all_workers_are_one_sum(database: Database) -> None:
    tallies = [Tally() for _ in range(5)]
    for tally in tallies:
        for seconds in (0.004, 0.3, 1e9):
            tally.observe(PHASE_SECONDS, "run", seconds)
        tally.observe(BUILD_SECONDS, "failed", 2.0)
        tally.count(RUN_STARTS, "hit", 3)
    await asyncio.gather(*(tally.write(database) for tally in tallies))
    await asyncio.gather(*(tally.write(database) for tally in tallies))  # nothing is new
    found = await figures(database)
    buckets = [found[f"{PHASE_SECONDS}_bucket", le, "run"] for le in ("0.005", "0.25", "0.5")]
    assert buckets == [5, 5, 10]
    assert found[f"{PHASE_SECONDS}_bucket", "86400.0", "run"] == 10
    assert found[f"{PHASE_SECONDS}_bucket", "+Inf", "run"] == 15
    assert found[f"{PHASE_SECONDS}_count", "run"] == 15
    assert found[f"{PHASE_SECONDS}_sum", "run"] == pytest.approx(5e9 + 1.52)
    assert found[f"{BUILD_SECONDS}_count", "failed"] == 5
    assert found["dissmodel_fork_server_requests_total", "hit"] == 15


async def test_what_could_not_be_written_is_written_later(database: Database) -> None:
    tally = Tally()
    tally.count(RUN_STARTS, "miss")
    away = Database("host=/nonexistent dbname=none")
    await away.pool.open(wait=False)
    away.pool.timeout = 0.1
    with pytest.raises(DatabaseError):
        await tally.write(away)
    await away.close()
    tally.count(RUN_STARTS, "miss")
    await tally.write(database)
    assert (await figures(database))["dissmodel_fork_server_requests_total", "miss"] == 2


async def test_slots_are_those_of_the_workers_that_are_there(
    database: Database, submit: Callable[..., Awaitable[Experiment]], queue: App
) -> None:
    one, other = uuid4(), uuid4()
    await register_worker(database, one, slots=3)
    await register_worker(database, other, slots=2)
    for worker in (one, one, other):
        assert await claim(database, (await submit()).id, worker)
    found = await figures(database)
    assert found["dissmodel_worker_slots",] == 5
    assert found["dissmodel_worker_slots_busy",] == 3
    await forget_worker(database, other)
    found = await figures(database)
    assert found["dissmodel_worker_slots",] == 3
    assert found["dissmodel_worker_slots_busy",] == 2
