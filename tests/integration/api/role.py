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

from tests.processes import wait_until

PROGRAM = [sys.executable, "-m", "dissmodel_platform"]
KEY = "mine"


@contextmanager
def serving(tmp_path: Path, url: str, **variables: str) -> Iterator[httpx.Client]:
    """Run the role ``api`` and talk to it; it ends as it should."""
    log = tmp_path / "api.log"
    port = free_port()
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Api:
    """The role ``api``, which may be killed and started again at the same port."""

    def __init__(self, tmp_path: Path, url: str) -> None:
        self.port = free_port()
        self._home, self._log = tmp_path / "home", tmp_path / "api.log"
        self._variables = {
            "PLATFORM_HOME": str(self._home), "DATABASE_URL": url, "API_KEYS": KEY,
            "PLATFORM_ALLOW_LOCAL_REGISTRY": "true", "CONFIGS_REPO": (tmp_path / "r").as_uri(),
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *arguments: str) -> None:
        subprocess.run([*PROGRAM, *arguments], env={**os.environ, **self._variables}, check=True)

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, "api", "--port", str(self.port)],
                env={**os.environ, **self._variables}, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(self._answers, "the api answers")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port)):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
