"""The registry over HTTP: webhooks, catalogue, history, held commits; the real app and database."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psycopg
import pytest

from dissmodel_platform.api.app import create_app
from dissmodel_platform.database.pool import Database
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.registry.git_faults import ADVICE, GitFault
from dissmodel_platform.registry.sync_runs import (
    SyncRun,
    begin_run,
    finish_run,
    forget_old_runs,
)
from dissmodel_platform.registry.webhooks import MAX_BODY_BYTES
from dissmodel_platform.services.sync import RegistrySync, ask_for_sync
from dissmodel_platform.settings import Settings, load_settings
from tests.integration.registry.conftest import MakeMirror, Registry

pytestmark = pytest.mark.anyio


KEY = "a key for the tests"
SECRET = "a secret of the forge"
ADDRESS = "https://git.example.org/group/configs.git"
GRID = "s3://dissmodel-inputs/inputs/examples/grid.zip"
CATALOG = f"""\
version: 1
sources:
  grid:
    driver: shapefile
    args: {{urlpath: "{GRID}"}}
"""


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(
        home=tmp_path / "home",
        database_url=database_url,
        api_keys=KEY,
        configs_repo=ADDRESS,
        configs_branch="main",
        webhook_secret=SECRET,
    )


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://platform",
            headers={"X-API-Key": KEY},
        ) as opened,
    ):  # fmt: skip
        yield opened


@pytest.fixture
async def watching(database: Database, make_mirror: MakeMirror) -> AsyncIterator[None]:
    """Run the sync process's loop beside the test, on the test's own repository."""
    stop = asyncio.Event()
    sync = RegistrySync(database, await open_queue(database), make_mirror())
    task = asyncio.create_task(sync.watch(stop, interval_seconds=3600))
    yield
    stop.set()
    await task


def push(branch: str = "main", repository: str = ADDRESS) -> bytes:
    return json.dumps(
        {"ref": f"refs/heads/{branch}", "repository": {"clone_url": repository}}
    ).encode()


def github(body: bytes, delivery: str = "1", secret: str = SECRET) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={digest}",
        "X-API-Key": "",
    }


def with_catalog(registry: Registry, models: dict[str, str], catalog: str | None) -> str:
    others = [] if catalog is None else [(registry.FILE, b"catalog.yaml", catalog.encode())]
    return registry.commit(models, others=others)


@pytest.mark.usefixtures("watching")
async def test_a_signed_push_is_synced_without_waiting_for_it(
    client: httpx.AsyncClient, database: Database, registry: Registry
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    await ask_for_sync(database, "test", timeout_seconds=30)
    tip = registry.commit({"a.toml": registry.model("a", 2)})
    begin = time.monotonic()
    answer = await client.post("/webhooks/github", content=push(), headers=github(push()))
    assert time.monotonic() - begin < 1
    assert (answer.status_code, answer.json()["syncing"]) == (202, True)
    for _ in range(300):
        if (await client.get("/models")).json()["commit"] == tip:
            break
        await asyncio.sleep(0.05)
    syncs = (await client.get("/registry/syncs")).json()["syncs"]
    assert syncs[0]["changed_keys"] == {"a": ["model.parameters.value"]}


async def test_a_delivery_that_is_sent_again_does_nothing(
    client: httpx.AsyncClient, database: Database
) -> None:
    for syncing in (True, False):
        answer = await client.post("/webhooks/github", content=push(), headers=github(push()))
        assert answer.json()["syncing"] is syncing
    rows = await database.fetch_all("SELECT * FROM sync_requests")
    assert len(rows) == 1


async def test_a_delivery_whose_first_answer_failed_is_taken_when_it_is_sent_again(
    client: httpx.AsyncClient, database: Database
) -> None:
    await database.execute("ALTER TABLE sync_requests RENAME TO sync_requests_away")
    with pytest.raises(psycopg.errors.UndefinedTable):
        await client.post("/webhooks/github", content=push(), headers=github(push()))
    await database.execute("ALTER TABLE sync_requests_away RENAME TO sync_requests")
    answer = await client.post("/webhooks/github", content=push(), headers=github(push()))
    assert (answer.status_code, answer.json()["syncing"]) == (202, True)
    assert len(await database.fetch_all("SELECT * FROM sync_requests")) == 1


@pytest.mark.parametrize(
    "body", [push("other"), push(repository="https://git.example.org/group/another.git")]
)
async def test_other_branches_and_repositories_are_ignored(
    client: httpx.AsyncClient, database: Database, body: bytes
) -> None:
    answer = await client.post("/webhooks/github", content=body, headers=github(body))
    assert (answer.status_code, answer.json()["syncing"]) == (202, False)
    assert await database.fetch_all("SELECT * FROM sync_requests") == []


async def test_a_forged_push_is_refused(client: httpx.AsyncClient, database: Database) -> None:
    headers = github(push(), secret="another")
    assert (
        await client.post("/webhooks/github", content=push(), headers=headers)
    ).status_code == 403
    assert (await client.post("/webhooks/unknown", content=push())).status_code == 422
    assert await database.fetch_all("SELECT * FROM sync_requests") == []


async def test_a_body_beyond_the_limit_is_refused(client: httpx.AsyncClient) -> None:
    body = b" " * (MAX_BODY_BYTES + 1)
    answer = await client.post("/webhooks/github", content=body, headers=github(body))
    assert answer.status_code == 413


async def test_without_a_secret_no_webhook_is_taken(settings: Settings, database: Database) -> None:
    app = create_app(settings.model_copy(update={"webhook_secret": None}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://platform"
        ) as client,
    ):
        answer = await client.post("/webhooks/github", content=push(), headers=github(push()))
    assert answer.status_code == 403
    assert "PLATFORM_WEBHOOK_SECRET" in answer.json()["detail"]


@pytest.mark.usefixtures("watching")
async def test_the_catalogue_is_published_with_its_commit_and_names_inputs(
    client: httpx.AsyncClient, database: Database, registry: Registry
) -> None:
    models = {"a.toml": registry.model("a")}
    first = with_catalog(registry, models, CATALOG)
    await ask_for_sync(database, "test", timeout_seconds=30)
    answer = (await client.get("/catalog")).json()
    assert (answer["commit"], list(answer["sources"])) == (first, ["grid"])
    files = {"file": ("grid.zip", b"a grid")}
    await client.post("/data/upload", files=files, data={"label": "examples"})
    body = {"model_name": "a", "input_dataset": "catalog:grid"}
    job = (await client.post("/submit_job", json=body)).json()
    record = (await client.get(f"/experiments/{job['job_id']}")).json()
    assert record["source"]["uri"] == GRID
    assert record["source"]["collection"] == "catalog:grid"
    assert record["source"]["version"] == first
    assert record["input_sha256"] == hashlib.sha256(b"a grid").hexdigest()

    body["input_dataset"] = "catalog:grit"
    refused = await client.post("/submit_job", json=body)
    assert refused.status_code == 422
    assert "grid" in refused.json()["detail"]
    assert refused.json()["errors"][0]["field"] == "input_dataset"

    with_catalog(registry, models, "sources: [")
    await ask_for_sync(database, "test", timeout_seconds=30)
    assert list((await client.get("/catalog")).json()["sources"]) == ["grid"], "the last good one"
    problems = (await client.get("/registry/problems")).json()["problems"]
    assert [(p["path"], p["code"]) for p in problems] == [("catalog.yaml", "invalid-yaml")]

    with_catalog(registry, models, None)
    await ask_for_sync(database, "test", timeout_seconds=30)
    assert (await client.get("/catalog")).json()["sources"] == {}
    assert (await client.get("/registry/problems")).json()["problems"] == []
    old = (await client.get("/catalog", params={"commit": first})).json()
    assert list(old["sources"]) == ["grid"]


@pytest.mark.usefixtures("watching")
async def test_a_source_that_cannot_be_stored_stops_neither_the_registry_nor_the_catalogue(
    client: httpx.AsyncClient, database: Database, registry: Registry
) -> None:
    hostile = ("0x" + "f" * 5000, "1:1", '"\\ud800"', '"\\0"', ".nan", "!!set {a}", "2001-99-99")
    sources = "".join(
        f"  s{number}:\n    driver: x\n    description: d\n"
        f"    args: {{urlpath: 's3://a/b', value: {value}}}\n"
        for number, value in enumerate(hostile)
    )
    tip = with_catalog(registry, {"a.toml": registry.model("a")}, CATALOG + sources)
    await ask_for_sync(database, "test", timeout_seconds=30)
    assert (await client.get("/models")).json()["commit"] == tip
    answer = await client.get("/catalog")
    assert list(answer.json()["sources"]) == ["grid", "s1"]
    assert answer.json()["sources"]["s1"]["args"]["value"] == "1:1"
    problems = (await client.get("/registry/problems")).json()["problems"]
    assert [problem["code"] for problem in problems] == ["invalid-source"] * 6


@pytest.mark.usefixtures("watching")
async def test_the_history_of_a_model_names_the_commits_that_changed_it(
    client: httpx.AsyncClient, database: Database, registry: Registry
) -> None:
    commits = []
    for models in (
        {"a.toml": registry.model("a", 1)},
        {"a.toml": registry.model("a", 1), "b.toml": registry.model("b")},
        {"a.toml": registry.model("a", 2), "b.toml": registry.model("b")},
        {"b.toml": registry.model("b")},
    ):
        commits.append(registry.commit(models))
        await ask_for_sync(database, "test", timeout_seconds=30)
    versions = (await client.get("/models/a/history")).json()["versions"]
    assert [(v["commit"], v["until_commit"]) for v in versions] == [
        (commits[2], commits[3]),
        (commits[0], commits[2]),
    ]
    assert (await client.get("/models/a")).status_code == 404
    old = (await client.get("/models/a", params={"commit": commits[1]})).json()
    assert old["spec"]["model"]["parameters"] == {"value": 1}
    listed = (await client.get("/models", params={"commit": commits[1]})).json()
    assert [model["name"] for model in listed["models"]] == ["a", "b"]
    assert (await client.get("/models/never/history")).status_code == 404


@pytest.mark.usefixtures("watching")
async def test_all_pages_of_one_listing_are_of_one_commit(
    client: httpx.AsyncClient, database: Database, registry: Registry
) -> None:
    first = registry.commit({f"m{n}.toml": registry.model(f"m{n}") for n in range(4)})
    await ask_for_sync(database, "test", timeout_seconds=30)
    page = (await client.get("/models", params={"limit": 2})).json()
    second = registry.commit({f"{name}.toml": registry.model(name) for name in ("a", "m2", "m9")})
    await ask_for_sync(database, "test", timeout_seconds=30)
    rest = (await client.get("/models", params={"cursor": page["next"]})).json()
    assert [m["name"] for m in page["models"] + rest["models"]] == ["m0", "m1", "m2", "m3"]
    assert (page["commit"], rest["commit"], rest["next"]) == (first, first, None)
    assert (await client.get("/models")).json()["commit"] == second
    same = await client.get("/models", params={"cursor": page["next"], "commit": first})
    assert same.json() == rest
    for wrong in (
        {"cursor": "m1"},
        {"cursor": "999:m1"},
        {"cursor": f"{10**30}:m1"},
        {"cursor": page["next"], "commit": second},
    ):
        assert (await client.get("/models", params=wrong)).status_code == 422


@pytest.mark.usefixtures("watching")
async def test_problems_are_paged_and_a_sync_tells_the_first_and_their_number(
    client: httpx.AsyncClient, registry: Registry
) -> None:
    registry.commit({f"m{n:03}.toml": "[model\n" for n in range(120)} | {"x": "y"})
    answer = (await client.post("/admin/sync")).json()
    assert (len(answer["problems"]), answer["problem_count"]) == (100, 120)
    first = (await client.get("/registry/problems")).json()
    assert (len(first["problems"]), first["total"]) == (100, 120)
    rest = (await client.get("/registry/problems", params={"cursor": first["next"]})).json()
    assert (rest["total"], rest["next"]) == (120, None)
    paths = [problem["path"] for problem in first["problems"] + rest["problems"]]
    assert paths == [f"models/m{n:03}.toml" for n in range(120)]
    for wrong in ({"limit": 1001}, {"cursor": "x"}, {"cursor": -1}, {"cursor": 10**30}):
        assert (await client.get("/registry/problems", params=wrong)).status_code == 422


@pytest.mark.usefixtures("watching")
async def test_a_submission_may_name_any_commit_that_was_published(
    client: httpx.AsyncClient, database: Database, registry: Registry
) -> None:
    first = registry.commit({"a.toml": registry.model("a", 1)})
    await ask_for_sync(database, "test", timeout_seconds=30)
    registry.commit({"b.toml": registry.model("b")}, parent=None)
    await ask_for_sync(database, "test", timeout_seconds=30)
    registry.git("gc", "--quiet", "--prune=now")
    body = {"model_name": "a", "input_dataset": ""}
    assert (await client.post("/submit_job", json=body)).status_code == 404
    job = (await client.post("/submit_job", json={**body, "model_commit": first[:9]})).json()
    assert job["model_commit"] == first
    record = (await client.get(f"/experiments/{job['job_id']}")).json()
    assert record["parameters"] == {"value": 1}


@pytest.mark.usefixtures("watching")
async def test_a_model_that_an_earlier_version_took_is_refused_with_what_to_mend(
    client: httpx.AsyncClient, database: Database, registry: Registry
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    await ask_for_sync(database, "test", timeout_seconds=30)
    await database.execute("UPDATE model_versions SET source_text = '[model]\ndescription = 1'")
    answer = await client.post("/submit_job", json={"model_name": "a", "input_dataset": ""})
    assert answer.status_code == 422
    assert "description must be text" in answer.json()["detail"]


@pytest.mark.usefixtures("watching")
async def test_a_held_commit_is_told_and_published_once_it_is_accepted(
    client: httpx.AsyncClient, database: Database, registry: Registry
) -> None:
    names = [f"m{number}" for number in range(8)]
    registry.commit({f"{name}.toml": registry.model(name) for name in names})
    await ask_for_sync(database, "test", timeout_seconds=30)
    held = registry.commit({"m0.toml": registry.model("m0")})
    answer = (await client.post("/admin/sync")).json()
    assert (answer["outcome"], answer["new_commit"]) == ("held", held)
    health = (await client.get("/health")).json()
    assert health["ready"]
    assert any(held in reason for reason in health["reasons"])
    assert "dissmodel_registry_held 1.0" in (await client.get("/metrics")).text
    wrong = await client.post("/admin/registry/accept", json={"commit": "0" * 40})
    assert wrong.status_code == 404
    assert (await client.post("/admin/registry/accept", json={})).status_code == 422
    other = registry.commit({"m1.toml": registry.model("m1")})
    moved = await client.post("/admin/registry/accept", json={"commit": held})
    assert moved.status_code == 404
    assert "no longer the head" in moved.json()["detail"]
    assert other in moved.json()["detail"]
    registry.reset(held)
    accepted = (await client.post("/admin/registry/accept", json={"commit": held})).json()
    assert accepted["accepted_commit"] == held
    assert accepted["sync"]["removed"] == names[1:]
    assert (await client.get("/health")).json()["reasons"] == []


@pytest.mark.parametrize("commit", ["\\u0000aaaaaaa", "\\ud800aaaaaaa", "aaaaaa", "a" * 65])
async def test_what_cannot_be_a_commit_is_refused(client: httpx.AsyncClient, commit: str) -> None:
    answer = await client.post("/admin/registry/accept", content=f'{{"commit": "{commit}"}}')
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "commit"


@pytest.mark.usefixtures("watching")
async def test_syncs_are_kept_as_long_as_the_operator_says(
    client: httpx.AsyncClient, database: Database, registry: Registry
) -> None:
    for value in range(3):
        registry.commit({"a.toml": registry.model("a", value)})
        await ask_for_sync(database, "test", timeout_seconds=30)
    syncs = (await client.get("/registry/syncs")).json()["syncs"]
    assert len(syncs) >= 3
    assert all(sync["duration_seconds"] > 0 for sync in syncs)
    older = await client.get("/registry/syncs", params={"before": syncs[0]["run_id"], "limit": 1})
    assert [sync["run_id"] for sync in older.json()["syncs"]] == [syncs[1]["run_id"]]
    await database.execute("UPDATE sync_runs SET finished_at = finished_at - interval '9 days'")
    assert await forget_old_runs(database, keep_days=30) == 0
    assert await forget_old_runs(database, keep_days=7) == len(syncs) - 1
    left = (await client.get("/registry/syncs")).json()["syncs"]
    assert [sync["run_id"] for sync in left] == [syncs[0]["run_id"]], "the newest success stays"


async def test_before_the_first_sync_the_api_answers_and_says_why_nothing_is_there(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/models")).json()["models"] == []
    health = await client.get("/health")
    assert (health.status_code, health.json()["ready"]) == (200, False)
    assert "published" in health.json()["reasons"][0]


async def test_an_unreachable_remote_is_a_reason_and_what_was_published_is_served(
    client: httpx.AsyncClient,
    database: Database,
    registry: Registry,
    make_mirror: MakeMirror,
    tmp_path: Path,
) -> None:
    sync = RegistrySync(database, await open_queue(database), make_mirror())
    registry.directory.rename(tmp_path / "away")
    assert (await sync.run("test")).outcome == "failed"
    health = (await client.get("/health")).json()
    assert not health["ready"]
    assert any("failed" in reason for reason in health["reasons"])
    (tmp_path / "away").rename(registry.directory)
    registry.commit({"a.toml": registry.model("a")})
    assert (await sync.run("test")).outcome == "published"
    registry.directory.rename(tmp_path / "away")
    await sync.run("test")
    health = (await client.get("/health")).json()
    assert health["ready"]
    assert any("failed" in reason for reason in health["reasons"])
    assert [m["name"] for m in (await client.get("/models")).json()["models"]] == ["a"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (f"{ADVICE[GitFault.UNREACHABLE]} (git said: '{ADDRESS}' ).", "cannot be reached"),
        (f"OSError: {ADDRESS}", "sync failed. GET /registry/syncs"),
    ],
)
async def test_a_stranger_is_told_the_kind_of_a_failure_and_a_key_shows_the_whole(
    client: httpx.AsyncClient, database: Database, error: str, kind: str
) -> None:
    run = SyncRun(
        await begin_run(database, "test"), "test", None, None, outcome="failed", error=error
    )
    async with database.transaction() as connection:
        await finish_run(connection, run)
    health = await client.get("/health", headers={"X-API-Key": ""})
    assert kind in health.json()["reasons"][-1]
    assert "git.example.org" not in health.text
    assert ADDRESS in (await client.get("/registry/syncs")).json()["syncs"][0]["error"]
    assert (await client.get("/registry/syncs", headers={"X-API-Key": ""})).status_code == 401


async def test_a_sync_process_that_has_stopped_is_noticed(
    client: httpx.AsyncClient, database: Database, registry: Registry, make_mirror: MakeMirror
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    await RegistrySync(database, await open_queue(database), make_mirror()).run("test")
    assert (await client.get("/health")).json()["reasons"] == []
    await database.execute("UPDATE sync_runs SET finished_at = finished_at - interval '2 hours'")
    (reason,) = (await client.get("/health")).json()["reasons"]
    assert "sync process" in reason
