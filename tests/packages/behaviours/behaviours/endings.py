"""Models that do not end as a model should."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor


class Raises(TextExecutor):
    """Raises in the phase that `phase` names."""

    name = "raises"

    def _fail(self, phase: str, record: ExperimentRecord) -> None:
        if record.parameters.get("phase", "run") == phase:
            raise ValueError("the elevation of cell 7 is missing")

    def validate(self, record: ExperimentRecord) -> None:
        self._fail("validate", record)

    def load(self, record: ExperimentRecord) -> Any:
        self._fail("load", record)

    def run(self, data: Any, record: ExperimentRecord) -> str:
        self._fail("run", record)
        return ""

    def save(self, result: str, record: ExperimentRecord) -> ExperimentRecord:
        self._fail("save", record)
        return record


class Ends(TextExecutor):
    """Ends the process in the way that `how` names."""

    name = "ends"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        how = record.parameters["how"]
        if how == "sys.exit":
            sys.exit(3)
        if how == "os._exit":
            os._exit(7)
        os.kill(os.getpid(), signal.Signals[how])
        time.sleep(60)
        return ""


class Waits(TextExecutor):
    """Says its process id, then waits `seconds`, deaf to SIGTERM where `deaf` is set.

    Where `once` names a file (from the root, without its slash), only the run that makes it waits.
    """

    name = "waits"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        if record.parameters.get("deaf"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("waiting as", os.getpid())
        once = record.parameters.get("once")
        if once:
            try:
                Path("/", once).touch(exist_ok=False)
            except FileExistsError:
                return "not waiting again"
        time.sleep(record.parameters.get("seconds", 600))
        return "waited"


class Hoards(TextExecutor):
    """Asks for more memory than there is."""

    name = "hoards"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        return str(len(bytearray(record.parameters["bytes"])))
