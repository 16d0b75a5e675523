"""A run is followed over HTTP: events come as it goes on; a client that was cut off resumes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from dissmodel_platform.database.pool import Database
from dissmodel_platform.experiments.record import Experiment
from tests.integration.api.role import KEY, serving
from tests.integration.api.runs import Runs
from tests.processes import wait_until

pytestmark = pytest.mark.anyio


def events(text: str) -> list[dict[str, Any]]:
    """Read server-sent events as the standard says, strictly."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if "data" in fields:
            data = json.loads(fields["data"])
            found.append({"id": int(fields["id"]), "event": fields["event"], **data})
    return found


@contextmanager
def following(
    client: httpx.Client, experiment: Experiment, **headers: str
) -> Iterator[httpx.Response]:
    with client.stream("GET", f"/job/{experiment.id}/events", headers=headers) as answer:
        yield answer


def test_events_come_while_the_run_goes_on_and_the_stream_ends_with_it(
    tmp_path: Path, database_url: str, runs: Runs
) -> None:
    run = runs("phase")
    with serving(tmp_path, database_url) as client, following(client, run) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache, no-transform"
        chunks = answer.iter_text()
        text = ""
        while '"phase": "run"' not in text:
            text += next(chunks)
        runs.tell(run, "lines", lines=3)
        while "2 á" not in text.encode().decode("unicode_escape"):
            text += next(chunks)
        runs.tell(run, "completed")
        text += "".join(chunks)
        told = events(text)
        assert [(e["event"], e.get("status") or e.get("text") or e.get("phase")) for e in told] == [
            ("status", "pending"), ("status", "running"), ("phase", "run"),
            *(("log", f"{number} {'á' * 10}") for number in range(3)),
            ("status", "completed"),
        ]  # fmt: skip
        assert {e["stream"] for e in told if e["event"] == "log"} == {"stderr"}
        assert all(e["at"].endswith("Z") for e in told)

        for place, event in enumerate(told[:-1]):
            with following(client, run, **{"Last-Event-ID": str(event["id"])}) as again:
                assert events(again.read().decode()) == told[place + 1 :]
        with following(client, run, **{"Last-Event-ID": str(told[-1]["id"])}) as again:
            assert again.status_code == 204


def test_a_stop_of_the_api_ends_streams_and_does_not_wait_for_them(
    tmp_path: Path, database_url: str, runs: Runs
) -> None:
    run = runs()
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(
            httpx.Client(timeout=30, trust_env=False, headers={"X-API-Key": KEY})
        )
        with serving(tmp_path, database_url) as client:
            other.base_url = client.base_url
            chunks = stack.enter_context(following(other, run)).iter_text()
            next(chunks)
        rest = "".join(chunks)  # whole, so that the client can go on elsewhere
    assert all("status" in event for event in events(rest))
    assert "graceful" not in (tmp_path / "api.log").read_text()


def test_one_key_may_hold_so_many_streams_and_those_that_went_away_do_not_count(
    tmp_path: Path, database_url: str, runs: Runs
) -> None:
    run = runs()
    limit = {"PLATFORM_EVENT_STREAMS_PER_KEY": "2"}
    with serving(tmp_path, database_url, **limit) as client:
        with following(client, run) as first, following(client, run) as second:
            assert (first.status_code, second.status_code) == (200, 200)
            refused = client.get(f"/job/{run.id}/events")
            assert refused.status_code == 429
            assert refused.json()["type"] == "urn:dissmodel-platform:too-many-streams"
            assert "as many as the operator allows" in refused.json()["detail"]
            assert refused.headers["Retry-After"]

        def is_free() -> bool:
            with following(client, run) as again:
                return again.status_code == 200

        wait_until(is_free, "the streams that were left are free again")


def test_readers_that_read_nothing_cost_next_to_nothing(
    tmp_path: Path, database_url: str, runs: Runs
) -> None:
    run = runs("lines", "lines", "completed", lines=10_000, width=500)  # 20 MB
    with serving(tmp_path, database_url) as client:
        pid = int((tmp_path / "api.pid").read_text())

        def memory() -> int:
            status = Path(f"/proc/{pid}/status").read_text()
            return int(status.partition("VmRSS:")[2].split()[0]) * 1024

        client.get(f"/job/{run.id}/logs")
        before = memory()
        idle = [socket.create_connection((client.base_url.host, client.base_url.port or 80))
                for _ in range(20)]  # fmt: skip
        for connection in idle:
            request = f"GET /job/{run.id}/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n"
            connection.sendall(request.encode())
        for connection in idle:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        with following(client, run) as answer:  # one that reads is served meanwhile
            assert len(events(answer.read().decode())) == 20_000 + 3
        assert memory() - before < 100e6
        for connection in idle:
            connection.close()


@pytest.fixture
async def ended(database_url: str, database: Database, runs: Runs) -> AsyncIterator[Experiment]:
    yield await asyncio.to_thread(runs, "phase", "lines", "completed", lines=5)


@pytest.mark.parametrize("place", ["x", "-1", "1.5", "9" * 30, "٣", "1 2"])
async def test_an_id_that_no_event_has_is_refused(
    client: httpx.AsyncClient, ended: Experiment, place: str
) -> None:
    answer = await client.get(f"/job/{ended.id}/events", headers={"Last-Event-ID": place.encode()})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Last-Event-ID"


async def test_a_stream_needs_a_key_and_an_experiment(
    client: httpx.AsyncClient, ended: Experiment
) -> None:
    for method in ("GET", "HEAD"):
        nobody = await client.request(
            method, f"/job/{ended.id}/events", headers={"X-API-Key": "no"}
        )
        assert nobody.status_code == 401
        nothing = await client.request(method, f"/job/{'0' * 32}/events")
        assert nothing.status_code == 404
    head = await client.head(f"/job/{ended.id}/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"].startswith("text/event-stream")


async def test_the_log_is_read_page_by_page_with_times_and_streams(
    client: httpx.AsyncClient, ended: Experiment
) -> None:
    lines: list[dict[str, Any]] = []
    cursor = 0
    while True:
        page = await client.get(f"/job/{ended.id}/logs", params={"limit": 2, "cursor": cursor})
        lines += page.json()["lines"]
        if page.json()["next"] is None:
            break
        cursor = page.json()["next"]
    assert [line["text"][0] for line in lines] == list("01234")
    assert lines[0].keys() == {"id", "at", "attempt", "stream", "text"}
    told = events((await client.get(f"/job/{ended.id}/events")).text)
    assert [e["id"] for e in told if e["event"] == "log"] == [line["id"] for line in lines]


async def test_the_record_lists_the_phases(client: httpx.AsyncClient, ended: Experiment) -> None:
    record = (await client.get(f"/experiments/{ended.id}")).json()
    [phase] = record["phases"]
    assert (phase["phase"], phase["attempt"]) == ("run", 1)
    assert phase["started_at"] >= record["started_at"]


async def test_the_job_says_when_it_is_expected_to_end(
    client: httpx.AsyncClient, database: Database, ended: Experiment
) -> None:
    end = "2026-08-01T12:00:00+00:00"
    with psycopg.connect(database.pool.conninfo) as connection:
        connection.execute(
            "UPDATE experiments SET status = 'running', progress = %s",
            (json.dumps({"percent": 50, "expected_end": end}),),
        )
    job = (await client.get(f"/job/{ended.id}")).json()
    assert job["expected_end"] == end.replace("+00:00", "Z")
    assert (await client.get(f"/experiments/{ended.id}")).json()["expected_end"] == end
