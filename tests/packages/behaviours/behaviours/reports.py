"""Models that tell what they see."""

from __future__ import annotations

import contextlib
import json
import os
import random
import stat
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor

_KINDS = {
    stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFREG: "file", stat.S_IFCHR: "device",
}  # fmt: skip


class Prints(TextExecutor):
    """Prints to both streams, also what is no text."""

    name = "prints"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        print("to standard output: maré alta")
        print("to standard error", file=sys.stderr)
        os.write(1, b"bytes \xff\0 and no end of the line")
        record.add_log("to the record")
        return ""


class Chatty(TextExecutor):
    """Prints `lines` lines, then one last word to standard error."""

    name = "chatty"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        for number in range(record.parameters["lines"]):
            print("line", number)
        return ""


class Draws(TextExecutor):
    """Draws from the global generators of random and NumPy."""

    name = "draws"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        return json.dumps([random.random(), float(np.random.random())])


class Describes(TextExecutor):
    """Writes down the process: variables, descriptors, directories, arguments."""

    name = "describes"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        descriptors = {}
        for number in range(1024):
            with contextlib.suppress(OSError):
                descriptors[number] = _KINDS.get(stat.S_IFMT(os.fstat(number).st_mode), "other")
        seen = {
            "now": time.time_ns(),
            "environment": dict(os.environ),
            "descriptors": descriptors,
            "directory": str(Path.cwd()),
            "path": sys.path,
            "record": json.loads(record.model_dump_json()),
            "parent": os.getppid(),
        }
        return json.dumps(seen)


class ReadsParameters(TextExecutor):
    """Opens the file that the parameter `demand_csv` names, with nothing but pathlib."""

    name = "reads-parameters"

    def load(self, record: ExperimentRecord) -> Any:
        path = Path(record.parameters["demand_csv"])
        nested = Path(record.parameters["scenarios"][0]["table"])
        return {
            "text": path.read_text(),
            "nested": nested.read_text(),
            "name": path.name,
            "mode": oct(path.stat().st_mode & 0o777),
            "source": record.source.uri,
        }

    def run(self, data: Any, record: ExperimentRecord) -> str:
        return json.dumps(data)


class SpoilsInput(TextExecutor):
    """Writes into its own input, as a library that opens a database file may."""

    name = "spoils-input"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        path = Path(record.source.uri)
        before = path.read_text()
        try:
            path.chmod(0o644)
            path.write_text("spoilt")
        except OSError as error:
            return json.dumps({"before": before, "refused": error.errno})
        return json.dumps({"before": before})
