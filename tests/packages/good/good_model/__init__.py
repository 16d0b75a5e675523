"""A model that installs, imports and fulfils the contract."""

from __future__ import annotations

from typing import Any

from dissmodel.executor import ModelExecutor


class Model(ModelExecutor):
    name = "good"

    def load(self, record: Any) -> Any:
        return None

    def run(self, data: Any, record: Any) -> Any:
        return data

    def save(self, result: Any, record: Any) -> Any:
        return record
