"""A submission that is sent again leads to one experiment, whatever happens in between."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from dissmodel_platform.client.platform import Platform
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import ServerRefused, ServerUnreachable
from tests.integration.api.role import KEY, Api, free_port
from tests.processes import wait_until

pytestmark = pytest.mark.anyio

REQUEST = {"model_spec_toml": '[model]\nclass = "echo"\n', "input_dataset": ""}


async def submit(client: httpx.AsyncClient, key: str | None = None, **changes: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post("/submit_job_inline", json={**REQUEST, **changes}, headers=headers)


async def experiments(database: Database) -> list[str]:
    rows = await database.fetch_all("SELECT id FROM experiments ORDER BY created_at")
    return [row["id"] for row in rows]


async def jobs(database: Database) -> int:
    row = await database.fetch_one(
        "SELECT count(*) AS n FROM procrastinate_jobs WHERE task_name = 'run_experiment'"
    )
    assert row is not None
    return int(row["n"])


@pytest.mark.parametrize("by", ["key", "id", "both"])
async def test_of_many_submissions_at_once_one_makes_an_experiment(
    client: httpx.AsyncClient, database: Database, by: str
) -> None:
    key = None if by == "id" else "a key of mine: 7"
    chosen = {} if by == "key" else {"experiment_id": uuid4().hex}
    answers = await asyncio.gather(*(submit(client, key, **chosen) for _ in range(32)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert await experiments(database) == [answers[0].json()["experiment_id"]]
    assert await jobs(database) == 1
    if by != "key":
        assert answers[0].json()["experiment_id"] == chosen["experiment_id"]


async def test_without_a_key_each_is_an_experiment(
    client: httpx.AsyncClient, database: Database
) -> None:
    for _ in range(2):
        assert (await submit(client)).status_code == 200
    assert await jobs(database) == len(await experiments(database)) == 2


async def test_later_the_answer_is_the_experiment_as_it_stands(
    client: httpx.AsyncClient, database: Database
) -> None:
    first = (await submit(client, "k", parameters={"message": "a", "pause": 1})).json()
    await database.execute("UPDATE experiments SET status = 'completed'")
    again = await submit(client, "k", parameters={"pause": 1, "message": "a"}, input_format="auto")
    assert again.status_code == 200
    assert again.json() == {**first, "status": "completed"}


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"message": "other"}},
        {"input_format": "vector"},
        {"model_spec_toml": REQUEST["model_spec_toml"] + "\n"},
        {"experiment_id": "0" * 32},
    ],
)
async def test_a_key_stands_for_one_request(
    client: httpx.AsyncClient, database: Database, changes: dict[str, Any]
) -> None:
    first = (await submit(client, "k")).json()
    other = await submit(client, "k", **changes)
    assert other.status_code == 409
    assert other.json()["type"] == "urn:dissmodel-platform:submission-conflict"
    assert first["experiment_id"] in other.json()["detail"]
    assert "use a new key" in other.json()["detail"]
    published = {"model_name": "echo", "input_dataset": ""}
    elsewhere = await client.post("/submit_job", json=published, headers={"Idempotency-Key": "k"})
    assert elsewhere.status_code == 409
    assert len(await experiments(database)) == 1


async def test_an_id_stands_for_one_request(client: httpx.AsyncClient, database: Database) -> None:
    written = "0A1B2C3D-0A1B-0A1B-0A1B-0A1B2C3D4E5F"
    plain = written.replace("-", "").lower()
    assert (await submit(client, experiment_id=written)).json()["experiment_id"] == plain
    assert (await submit(client, experiment_id=plain)).status_code == 200
    other = await submit(client, experiment_id=plain, parameters={"message": "other"})
    assert other.status_code == 409
    assert "is taken by another submission" in other.json()["detail"]
    with_key = await submit(client, "new", experiment_id=plain, input_format="vector")
    assert with_key.status_code == 409
    without = (await submit(client)).json()["experiment_id"]
    assert (await submit(client, experiment_id=without)).status_code == 409
    assert len(await experiments(database)) == 2


async def test_keys_of_different_callers_are_different(
    client: httpx.AsyncClient, database: Database
) -> None:
    await submit(client, "k")
    await database.execute("UPDATE experiments SET submitted_by = 'somebody else'")
    assert (await submit(client, "k")).status_code == 200
    assert len(await experiments(database)) == 2


async def test_a_refused_request_does_not_use_up_its_key(
    client: httpx.AsyncClient, database: Database
) -> None:
    assert (await submit(client, "k", input_dataset="/etc/passwd")).status_code == 422
    assert (await submit(client, "k")).status_code == 200


@pytest.mark.parametrize("key", ["", "x" * 256, "maré", "a\tb"])
async def test_a_key_is_short_and_plain(client: httpx.AsyncClient, key: str) -> None:
    answer = await client.post(
        "/submit_job_inline", json=REQUEST, headers={b"Idempotency-Key": key.encode()}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize("chosen", ["", "x", "0" * 31, "0" * 33, "٣" * 32, "0-" * 32, 7])
async def test_an_id_is_a_uuid(client: httpx.AsyncClient, chosen: object) -> None:
    answer = await submit(client, experiment_id=chosen)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "experiment_id"


async def test_a_reproduction_is_submitted_once(
    client: httpx.AsyncClient, database: Database
) -> None:
    original = (await submit(client)).json()["experiment_id"]
    await database.execute(
        "UPDATE experiments SET status = 'completed',"
        """ outcome = '{"inputs": [], "lock_sha256": "x"}'"""
    )
    path, headers = f"/experiments/{original}/reproduce", {"Idempotency-Key": "again"}
    answers = [await client.post(path, headers=headers) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["experiment_id"] for answer in answers}) == 1
    assert len(await experiments(database)) == 2


def test_a_killed_api_loses_no_submission_and_takes_none_twice(api: Api, database_url: str) -> None:
    """Four clients submit without a break while the api is killed and started four times."""
    accepted: dict[str, str] = {}
    ended = threading.Event()

    def submit(client: int) -> None:
        with Platform(f"http://127.0.0.1:{api.port}", KEY) as platform:
            number = 0
            while not ended.is_set():
                key = f"{client}-{number}"
                message = {"message": key}
                try:
                    job = platform.submit("echo", parameters=message, idempotency_key=key)
                except ServerUnreachable:  # it was away before anything was sent
                    time.sleep(0.02)
                    continue
                accepted[key] = job["experiment_id"]
                number += 1

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(submit, number) for number in range(4)]
        try:
            for kill in range(4):
                before = len(accepted)
                wait_until(lambda: len(accepted) > before + 20 or running[0].done(), "they submit")  # noqa: B023
                time.sleep(0.013 * kill)
                api.kill()
                api.start()
        finally:
            ended.set()
        for client in running:
            client.result()

    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT idempotency_key, id, submission->'parameters'->>'message', queue_job_id"
            " FROM experiments"
        ).fetchall()
        queued = {
            job[0] for job in connection.execute("SELECT id FROM procrastinate_jobs").fetchall()
        }
    assert len(accepted) > 80
    assert {key: experiment_id for key, experiment_id, _, _ in rows} == accepted
    assert len(rows) == len(accepted)
    assert all(key == message for key, _, message, _ in rows)
    assert {job for *_, job in rows} <= queued


def test_the_client_sends_a_submission_again_whose_answer_was_lost(database_url: str) -> None:
    """A server that takes the request and breaks off twice, and answers the third time."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for attempt in range(3):
                connection, _ = server.accept()
                with connection:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        request += connection.recv(65536)
                    seen.append(request.decode().lower().partition("idempotency-key: ")[2][:32])
                    body = b'{"experiment_id": "x"}' if attempt == 2 else b""
                    if attempt == 1:
                        status = b"503 Busy"
                    elif attempt == 2:
                        status = b"200 OK"
                    else:
                        continue
                    head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                    connection.sendall(head % (status, len(body)) + body)

        serving = threading.Thread(target=serve)
        serving.start()
        with Platform(f"http://127.0.0.1:{server.getsockname()[1]}") as platform:
            assert platform.submit("m") == {"experiment_id": "x"}
        serving.join()
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert len(seen[0]) == 32


def test_who_is_not_there_is_told_at_once() -> None:
    begin = time.monotonic()
    with (
        Platform(f"http://127.0.0.1:{free_port()}") as platform,
        pytest.raises(ServerUnreachable, match="No platform answers"),
    ):
        platform.submit("m")
    assert time.monotonic() - begin < 5


def test_a_conflict_is_not_tried_again(api: Api) -> None:
    with Platform(f"http://127.0.0.1:{api.port}", KEY) as platform:
        platform.submit("echo", idempotency_key="k")
        with pytest.raises(ServerRefused) as refused:
            platform.submit("echo", priority="high", idempotency_key="k")
    assert refused.value.status == 409
