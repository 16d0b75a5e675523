"""A running platform to measure, as ``up`` starts it, with its own temporary data directory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.client.platform import Platform
from dissmodel_platform.errors import ServerUnreachable

_START_SECONDS = 300.0


@dataclass(frozen=True)
class RunningPlatform:
    """A client of the platform, and where the platform keeps its data."""

    client: Platform
    home: Path


@contextmanager
def running_platform(model: str, workers: int = 1) -> Iterator[RunningPlatform]:
    """Start a platform with a local registry and wait until a model can be run."""
    with tempfile.TemporaryDirectory(prefix="dissmodel-bench-") as place:
        home = Path(place) / "home"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ours = ("PLATFORM_", "CONFIGS_", "DATABASE_URL", "STORAGE_URL", "API_KEYS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        up = [sys.executable, "-m", "dissmodel_platform", "up", "--port", str(port)]
        process = subprocess.Popen(
            [*up, "--workers", str(workers)],
            env=kept | {"PLATFORM_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, home, model)
            with Platform(url, (home / "api-key").read_text().strip()) as client:
                yield RunningPlatform(client, home)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait(url: str, home: Path, model: str) -> None:
    """Wait until every environment of the registry is built, so that nothing else is going on."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            with Platform(url, (home / "api-key").read_text().strip()) as client:
                models = client.models()
        except (ServerUnreachable, FileNotFoundError):
            models = []
        states = {entry["name"]: entry["environment"]["state"] for entry in models}
        if model in states and set(states.values()) == {"ready"}:
            return
        time.sleep(0.2)
    raise TimeoutError(f"{model} could not be run within {_START_SECONDS:.0f} s")
