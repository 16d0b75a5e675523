"""An executor for a dissmodel older than 0.4, whose run takes one argument."""

from __future__ import annotations

from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor


class OldStyle(TextExecutor):
    name = "old-style"

    def run(self, record: ExperimentRecord) -> str:  # type: ignore[override]
        return "never"
