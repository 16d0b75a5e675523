"""Models that start processes and threads of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

from dissmodel.executor import ExperimentRecord

from behaviours.base import TextExecutor

_CHILD = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"


class Spawns(TextExecutor):
    """Starts a child and a grandchild, says their process ids, and waits unless told to end."""

    name = "spawns"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD + "; time.sleep(600)"], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        print("spawned", os.getpid(), child.pid, int(child.stdout.readline()))
        if record.parameters.get("wait", True):
            time.sleep(600)
        return "left them"


class Threads(TextExecutor):
    """Uses threads in the run, as a model may."""

    name = "threads"

    def run(self, data: Any, record: ExperimentRecord) -> str:
        total = []
        workers = [threading.Thread(target=total.append, args=(n,)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return str(sum(total))
