"""An executor whose `run` takes one argument, as before dissmodel 0.4."""

from __future__ import annotations

from typing import Any

from dissmodel.executor import ExperimentRecord, ModelExecutor


class ContractBroken(ModelExecutor):
    name = "contract-broken"

    def load(self, record: ExperimentRecord) -> Any:
        return None

    def run(self, record: ExperimentRecord) -> str:  # type: ignore[override]
        return "never"

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        return record
