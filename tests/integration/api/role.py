"""The role ``api`` as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

PROGRAM = [sys.executable, "-m", "dissmodel_platform"]
KEY = "mine"


@contextmanager
def serving(tmp_path: Path, url: str, **variables: str) -> Iterator[httpx.Client]:
    """Run the role ``api`` and talk to it; it ends as it should."""
    log = tmp_path / "api.log"
    port = _free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*PROGRAM, "api", "--port", str(port)],
            env={
                **os.environ,
                "PLATFORM_HOME": str(tmp_path / "home"),
                "DATABASE_URL": url,
                "API_KEYS": KEY,
                "PLATFORM_CANCEL_GRACE_SECONDS": "0",
                **variables,
            },
            stdout=output,
            stderr=output,
        )
    (tmp_path / "api.pid").write_text(str(process.pid))
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"X-API-Key": KEY},
            timeout=30,
            trust_env=False,
        ) as client:
            deadline = time.monotonic() + 60
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                try:
                    client.get("/openapi.json")
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
