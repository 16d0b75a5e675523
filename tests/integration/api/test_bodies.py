"""No body holds the API up: not a large one, not one that never ends, not one full of faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from dissmodel_platform.api import bodies
from dissmodel_platform.api.app import create_app
from dissmodel_platform.database.pool import Database
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.services.sync import RegistrySync
from dissmodel_platform.settings import Settings, load_settings
from tests.integration.registry.conftest import MakeMirror, Registry

pytestmark = pytest.mark.anyio

KEY = "a key for the tests"
LARGEST = 5_000
SUBMISSION = b'{"model_name": "a", "input_dataset": ""}'


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(
        home=tmp_path / "home",
        database_url=database_url,
        api_keys=KEY,
        configs_repo="https://git.example.org/group/configs.git",
        webhook_secret="a secret of the forge",
        max_request_bytes=LARGEST,
    )


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with opened(settings) as client:
        yield client


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://platform",
            headers={"X-API-Key": KEY},
        ) as client,
    ):  # fmt: skip
        yield client


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


async def without_end() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.Event().wait()


async def test_a_body_of_the_largest_size_is_read(client: httpx.AsyncClient) -> None:
    body = SUBMISSION.ljust(LARGEST)
    for content in (body, in_chunks(body)):
        answer = await client.post("/submit_job", content=content)
        assert answer.json()["type"].endswith(":model-not-found")


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_larger_one_is_refused_with_what_to_do(
    client: httpx.AsyncClient, method: str
) -> None:
    body = SUBMISSION.ljust(LARGEST + 1)
    for content in (body, in_chunks(body)):
        answer = await client.request(method, "/submit_job", content=content)
        assert answer.status_code == 413
        assert answer.json()["type"].endswith(":upload-too-large")
        assert "/data/upload" in answer.json()["detail"]


async def test_an_upload_may_be_larger_and_a_stranger_is_not_read(
    client: httpx.AsyncClient,
) -> None:
    upload = await client.post("/data/upload", files={"file": ("a.bin", bytes(10 * LARGEST))})
    assert upload.json()["size_bytes"] == 10 * LARGEST
    stranger = await client.post(
        "/submit_job", content=without_end(), headers={"X-API-Key": "another"}
    )
    assert stranger.status_code == 401


@pytest.mark.parametrize("path", ["/submit_job", "/webhooks/github"])
async def test_a_body_that_stops_coming_is_given_up(
    client: httpx.AsyncClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.1)
    answer = await asyncio.wait_for(client.post(path, content=without_end()), 10)
    assert answer.status_code == 408
    assert answer.json()["type"].endswith(":request-timeout")
    assert answer.headers["Connection"] == "close"


async def test_many_unknown_parameters_are_told_in_part_and_counted(
    settings: Settings, database: Database, registry: Registry, make_mirror: MakeMirror
) -> None:
    schema = "[model.parameter_schema.value]\nminimum = 0\n"
    registry.commit({"a.toml": registry.model("a") + schema, "b.toml": registry.model("b")})
    await RegistrySync(database, await open_queue(database), make_mirror()).run("test")
    parameters = {f"p{number}": 1 for number in range(20_000)}
    roomy = settings.model_copy(update={"max_request_bytes": 2**20})
    async with opened(roomy) as client:
        refused, accepted = [
            await client.post(
                "/submit_job",
                json={"model_name": name, "input_dataset": "", "parameters": parameters},
            )
            for name in "ab"
        ]
    assert refused.status_code == 422
    assert len(refused.json()["errors"]) == 50
    assert refused.json()["detail"].endswith(" 19950 more fields do not fit.")
    assert accepted.status_code == 200
    assert len(accepted.json()["warnings"]) == 21
    assert max(len(refused.content), len(accepted.content)) < 20_000


async def test_a_commit_that_is_empty_is_not_the_newest(client: httpx.AsyncClient) -> None:
    body = {"model_name": "a", "input_dataset": "", "model_commit": ""}
    answer = await client.post("/submit_job", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "model_commit"


async def test_many_faults_are_told_in_part_and_counted(client: httpx.AsyncClient) -> None:
    columns = {f"c{number}": number for number in range(300)}
    body = {"model_name": "a", "input_dataset": "", "column_map": columns}
    answer = await client.post("/submit_job", json=body)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 50
    assert answer.json()["detail"].endswith(" 250 more fields do not fit.")
