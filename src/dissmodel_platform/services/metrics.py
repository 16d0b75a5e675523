"""Figures for Prometheus, read from the database when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from dissmodel_platform.database.pool import Database
from dissmodel_platform.services.tally import read_totals
from dissmodel_platform.types import ExperimentStatus


class _Read(Collector):
    """Hands over figures that were read already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def render_metrics(database: Database) -> bytes:
    """Return the platform's figures in Prometheus' text format."""
    registry = CollectorRegistry()
    await _experiments(database, registry)
    await _registry(database, registry)
    registry.register(_Read(await read_totals(database)))
    return generate_latest(registry)


async def _experiments(database: Database, registry: CollectorRegistry) -> None:
    counts = await database.fetch_all("SELECT status, count(*) AS n FROM experiments GROUP BY 1")
    experiments = Gauge(
        "dissmodel_experiments", "Experiments by state", ["status"], registry=registry
    )
    by_status = {row["status"]: row["n"] for row in counts}
    for status in ExperimentStatus:
        experiments.labels(status.value).set(by_status.get(status.value, 0))
    oldest = await database.fetch_one(
        "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0) AS age"
        " FROM experiments WHERE status = 'pending'"
    )
    workers = await database.fetch_one(
        """
        SELECT count(*) AS n, coalesce(sum(slots), 0) AS slots,
               (SELECT count(*) FROM experiments
                WHERE status = 'running' AND worker IN (SELECT id FROM workers)) AS busy
        FROM workers
        """
    )
    assert oldest is not None
    assert workers is not None
    Gauge(
        "dissmodel_queue_age_seconds", "Age of the oldest pending experiment", registry=registry
    ).set(float(oldest["age"]))
    Gauge("dissmodel_workers", "Workers that send heartbeats", registry=registry).set(workers["n"])
    Gauge(
        "dissmodel_worker_slots", "Runs that the workers take at the same time", registry=registry
    ).set(workers["slots"])
    Gauge("dissmodel_worker_slots_busy", "Runs that workers are at now", registry=registry).set(
        workers["busy"]
    )


async def _registry(database: Database, registry: CollectorRegistry) -> None:
    row = await database.fetch_one(
        """
        SELECT (SELECT count(*) FROM model_history WHERE until_seq IS NULL) AS models,
               (SELECT count(*) FROM registry_problems) AS problems,
               (SELECT extract(epoch FROM finished_at) FROM sync_runs
                WHERE error IS NULL AND finished_at IS NOT NULL
                ORDER BY number DESC LIMIT 1) AS last_success,
               (SELECT count(*) FROM registry_holds WHERE accepted_at IS NULL) AS held,
               (SELECT count(*) FROM sync_runs WHERE outcome = 'failed') AS failed
        """
    )
    environments = await database.fetch_all(
        "SELECT state, count(*) AS n FROM environments GROUP BY 1"
    )
    assert row is not None
    Gauge("dissmodel_models", "Models that are served", registry=registry).set(row["models"])
    Gauge("dissmodel_registry_problems", "Problems of the registry", registry=registry).set(
        row["problems"]
    )
    Gauge(
        "dissmodel_registry_last_success_timestamp_seconds",
        "When a sync last succeeded (0: never)",
        registry=registry,
    ).set(float(row["last_success"] or 0))
    Gauge(
        "dissmodel_registry_held", "Whether a commit waits to be accepted", registry=registry
    ).set(row["held"])
    Gauge(
        "dissmodel_registry_failed_syncs", "Failed syncs in the history kept", registry=registry
    ).set(row["failed"])
    states = Gauge("dissmodel_environments", "Environments by state", ["state"], registry=registry)
    for environment in environments:
        states.labels(environment["state"]).set(environment["n"])
