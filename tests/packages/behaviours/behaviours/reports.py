"""Models that tell what they see."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor


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
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the directory's own
                descriptors[entry.name] = str(entry.readlink())
        seen = {
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


class ReadsBeside(TextExecutor):
    """Reports the texts of all files beside its input, by name, and how the input was named."""

    name = "reads-beside"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        path = Path(record.source.uri)
        texts = {file.name: file.read_text() for file in path.parent.iterdir()}
        return json.dumps({"input": path.name, "texts": texts, "parameters": record.parameters})


class SpoilsInput(TextExecutor):
    """Writes into its own input, as a library that opens a database file may."""

    name = "spoils-input"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        path = Path(record.source.uri)
        before = path.read_text()
        seen = path.stat()
        path.chmod(0o644)
        path.write_text("spoilt"[: seen.st_size].ljust(seen.st_size))
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as if nothing had happened
        path.chmod(0o444)
        return before
