"""The client and the command line follow a run, whatever happens to the server meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from dissmodel_platform.client.platform import Platform
from dissmodel_platform.errors import ServerRefused
from tests.integration.api.role import KEY, PROGRAM, Api
from tests.integration.api.runs import Runs
from tests.processes import wait_until


def test_a_client_that_follows_outlives_the_server(api: Api, runs: Runs) -> None:
    run = runs("phase", "lines", lines=3)
    seen: list[dict[str, Any]] = []

    follower = threading.Thread(target=_collect, args=(api, run.id, seen))
    follower.start()
    wait_until(lambda: len(seen) >= 6, "what is there is told")
    api.kill()
    runs.tell(run, "lines", lines=2)
    api.start()
    wait_until(lambda: len(seen) >= 8, "what came meanwhile is told")
    runs.tell(run, "completed")
    follower.join(30)
    assert not follower.is_alive()
    assert [event["event"] for event in seen] == [
        "status", "status", "phase", *["log"] * 5, "status",
    ]  # fmt: skip
    assert [event["id"] for event in seen] == sorted({event["id"] for event in seen})
    with Platform(f"http://127.0.0.1:{api.port}", KEY) as platform:
        assert list(platform.events(run.id, after=seen[3]["id"])) == seen[4:]
        assert list(platform.events(run.id, after=seen[-1]["id"])) == []


def _collect(api: Api, experiment_id: str, seen: list[dict[str, Any]]) -> None:
    with Platform(f"http://127.0.0.1:{api.port}", KEY) as platform:
        for event in platform.events(experiment_id):
            seen.append(event)


def test_the_whole_log_is_read_with_times_by_client_and_command(api: Api, runs: Runs) -> None:
    run = runs("lines", lines=1_500)
    url = f"http://127.0.0.1:{api.port}"
    with Platform(url, KEY) as platform:
        lines = list(platform.logs(run.id))
        assert [line["text"].split()[0] for line in lines] == [str(n) for n in range(1_500)]
        assert {(line["stream"], line["attempt"]) for line in lines} == {("stderr", 1)}
        with pytest.raises(ServerRefused, match="There is no experiment"):
            list(platform.logs("0" * 32))
        with pytest.raises(ServerRefused, match="There is no experiment"):
            list(platform.logs("0" * 32, follow=True))
    command = [*PROGRAM, "logs", run.id, "--follow", "--times", "--url", url, "--key", KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as following:
        assert following.stdout is not None
        first = next(following.stdout)
        assert first.split()[1:3] == ["stderr", "0"]
        assert first.startswith(lines[0]["at"])
        runs.tell(run, "lines", "completed", lines=1)
        rest = following.stdout.read().splitlines()
        assert len(rest) == 1_500
        assert following.wait(30) == 0


class OldServer(BaseHTTPRequestHandler):
    """A platform from before there was a stream: the job's last lines are all that it tells."""

    polls = 0

    def do_GET(self) -> None:
        if self.path == "/job/x":
            first = OldServer.polls
            OldServer.polls += 1
            status = "running" if first < 3 else "failed"
            lines = [f"line {n}" for n in range(first, first + 3)]
            self._answer(200, {"status": status, "logs": lines})
        else:
            self._answer(404, {"type": "urn:dissmodel-platform:not-found", "detail": "Nothing."})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def old_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("dissmodel_platform.client.platform._SLOWEST_POLL_SECONDS", 0.01)
    monkeypatch.setattr(OldServer, "polls", 0)
    with HTTPServer(("127.0.0.1", 0), OldServer) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_an_older_server_is_polled(old_server: str) -> None:
    with Platform(old_server) as platform:
        followed = [line["text"] for line in platform.logs("x", follow=True)]
        assert followed == [f"line {n}" for n in range(6)]
        assert [line["text"] for line in platform.logs("x")] == ["line 4", "line 5", "line 6"]
