"""The executor ``echo``: waits, then writes a message. It shows that a platform works."""

from __future__ import annotations

import time

from dissmodel.executor import ExperimentRecord, ModelExecutor
from dissmodel.io._utils import write_text

from dissmodel_builtin.checks import text, whole_number

OUTPUT = "echo.txt"
"""Name of the result, in the working directory, where the record names no other."""


class EchoExecutor(ModelExecutor):
    """Write a message to a text file; needs no input.

    Parameters of the record: ``message`` (text, default ``hello``) and ``pause`` (whole seconds to
    wait before writing, default 0).
    """

    name = "echo"
    output_suffix = ".txt"

    def validate(self, record: ExperimentRecord) -> None:
        """Check the parameters. Raises ValueError."""
        self._message(record)
        self._pause_seconds(record)

    def load(self, record: ExperimentRecord) -> str:
        """Return the message; whatever ``record.source`` names is not read."""
        return self._message(record)

    def run(self, data: str, record: ExperimentRecord) -> str:
        """Wait, and return the message."""
        time.sleep(self._pause_seconds(record))
        return data

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        """Write the message, in UTF-8 and without a line end, to ``record.output_path``.

        Sets ``output_path`` (``echo.txt`` where it was unset), ``output_sha256`` and the status
        ``completed``.
        """
        record.output_path = record.output_path or OUTPUT
        record.output_sha256 = write_text(result, record.output_path)
        record.add_log(result)
        record.status = "completed"
        return record

    @staticmethod
    def _message(record: ExperimentRecord) -> str:
        return text(record.parameters, "message", "hello")

    @staticmethod
    def _pause_seconds(record: ExperimentRecord) -> int:
        return whole_number(record.parameters, "pause", 0, minimum=0)
