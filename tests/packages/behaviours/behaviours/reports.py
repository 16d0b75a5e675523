"""Models that tell what they see."""

from __future__ import annotations

import contextlib
import fcntl
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


class Floods(TextExecutor):
    """Prints as fast as it can for `seconds`, and says how many lines that were."""

    name = "floods"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        end = time.monotonic() + record.parameters["seconds"]
        count = 0
        while time.monotonic() < end:
            os.write(1, b"y\n" * 10_000)
            count += 10_000
        return str(count)


class Ticks(TextExecutor):
    """Prints a line ten times a second for `seconds`."""

    name = "ticks"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        for tick in range(10 * record.parameters["seconds"]):
            print("tick", tick)
            time.sleep(0.1)
        return ""


class FloodsEvents(TextExecutor):
    """Writes whatever it likes to the pipe that the harness tells its events through."""

    name = "floods-events"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        pipes = [fd for fd in range(3, 64) if _is_writable_pipe(fd)]
        end = time.monotonic() + record.parameters["seconds"]
        step = 0
        while time.monotonic() < end:
            step += 1
            told = [
                {"event": "progress", "time": step % 7, "start": 0, "end": 7},
                {"event": "phase", "phase": ["validate", "load", "run", "save"][step % 4]},
                {"event": "phase", "phase": "lunch"},
            ]
            text = "".join(json.dumps(event) + "\n" for event in told) * 200 + "{ no event\n"
            for pipe in pipes:
                os.write(pipe, text.encode())
        return json.dumps(len(pipes))


def _is_writable_pipe(descriptor: int) -> bool:
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False
    return is_pipe and flags & os.O_ACCMODE == os.O_WRONLY


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
        try:
            seen = path.stat()
            path.chmod(0o644)
            path.write_text("spoilt"[: seen.st_size].ljust(seen.st_size))
            os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as if nothing had happened
            path.chmod(0o444)
        except OSError as error:
            return json.dumps({"before": before, "refused": error.errno})
        return json.dumps({"before": before})
