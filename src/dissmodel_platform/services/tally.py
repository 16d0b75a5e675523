"""What a worker counts for Prometheus, added up in the database by all of them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError

PHASE_SECONDS = "dissmodel_run_phase_seconds"
BUILD_SECONDS = "dissmodel_environment_build_seconds"
RUN_STARTS = "dissmodel_fork_server_requests"

_HISTOGRAMS = {
    PHASE_SECONDS: ("What each phase of an attempt took", "phase"),
    BUILD_SECONDS: ("What resolving or building an environment took", "outcome"),
}
_COUNTERS = {
    RUN_STARTS: (
        "Runs by how they were started: by a fork server that was there (hit) or was started for "
        "it (miss), or as a fresh process (fresh)",
        "result",
        ("hit", "miss", "fresh"),
    ),
}

_BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0,
    7_200.0, 86_400.0,
)  # fmt: skip
_BUCKETS = (*map(str, _BOUNDS), "+Inf")
_SUM = "sum"
_COUNT = "count"


class Tally:
    """Counts of one worker that are not in the database yet.

    A worker that is killed takes the last few seconds' with it; what is written never shrinks.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, str, str], float] = defaultdict(float)

    def count(self, name: str, label: str, times: int = 1) -> None:
        """Count an event."""
        self._counts[name, label, _COUNT] += times

    def observe(self, name: str, label: str, seconds: float) -> None:
        """Count a duration."""
        self._counts[name, label, _BUCKETS[bisect_left(_BOUNDS, seconds)]] += 1
        self._counts[name, label, _SUM] += seconds

    async def write(self, database: Database) -> None:
        """Add everything to the totals; what cannot be written is kept for the next time.

        Raises
        ------
        DatabaseError
            PostgreSQL broke off.
        """
        if not self._counts:
            return
        counts, self._counts = self._counts, defaultdict(float)
        ordered = sorted(counts)  # so that no two workers wait for each other
        try:
            await database.execute(
                """
                INSERT INTO worker_totals (name, label, bucket, value)
                SELECT * FROM unnest(%(names)s::text[], %(labels)s::text[], %(buckets)s::text[],
                                     %(values)s::float8[])
                ON CONFLICT (name, label, bucket)
                    DO UPDATE SET value = worker_totals.value + EXCLUDED.value
                """,
                names=[name for name, _, _ in ordered],
                labels=[label for _, label, _ in ordered],
                buckets=[bucket for _, _, bucket in ordered],
                values=[counts[key] for key in ordered],
            )
        except DatabaseError:
            for key, value in counts.items():
                self._counts[key] += value
            raise


async def read_totals(database: Database) -> Iterator[Metric]:
    """Return what all workers have counted, as Prometheus' library has it."""
    rows = await database.fetch_all("SELECT name, label, bucket, value FROM worker_totals")
    values = {(row["name"], row["label"], row["bucket"]): row["value"] for row in rows}
    return _metrics(values)


def _metrics(values: dict[tuple[str, str, str], float]) -> Iterator[Metric]:
    for name, (text, label_name, known) in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=[label_name])
        for label in known:
            counter.add_metric([label], values.get((name, label, _COUNT), 0.0))
        yield counter
    for name, (text, label_name) in _HISTOGRAMS.items():
        histogram = HistogramMetricFamily(name, text, labels=[label_name])
        for label in sorted({key[1] for key in values if key[0] == name}):
            buckets, below = [], 0.0
            for bucket in _BUCKETS:
                below += values.get((name, label, bucket), 0.0)
                buckets.append((bucket, below))
            histogram.add_metric([label], buckets, values.get((name, label, _SUM), 0.0))
        yield histogram
