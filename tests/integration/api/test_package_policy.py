"""The operator's list of package sources: at the sync, at a submission, and around builds."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from dissmodel_platform.api.app import create_app
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import SettingsError
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.services.package_policy import package_policy
from dissmodel_platform.services.prepare import open_environments
from dissmodel_platform.services.sync import RegistrySync
from dissmodel_platform.settings import Settings, load_settings
from tests.integration.api.role import KEY
from tests.integration.registry.conftest import MakeMirror, Registry

pytestmark = pytest.mark.anyio

LISTED = "index, git+https://git.example.org/lab/"


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PLATFORM_PACKAGE_SOURCES", LISTED)
    return load_settings(home=tmp_path / "home", database_url=database_url, api_keys=KEY)


def spec(package: str) -> str:
    return f'[model]\nclass = "flood"\n\npackage = "{package}"\n'


@pytest.fixture
async def sync(database: Database, make_mirror: MakeMirror, settings: Settings) -> RegistrySync:
    policy = package_policy(settings)
    return RegistrySync(database, await open_queue(database), make_mirror(), policy=policy)


async def test_a_spec_outside_the_list_is_a_problem_and_the_version_before_it_is_served(
    client: httpx.AsyncClient, registry: Registry, sync: RegistrySync
) -> None:
    good = spec("git+https://git.example.org/lab/flood@v1")
    registry.commit({"flood.toml": good, "tide.toml": spec("tide==1.0")})
    assert (await sync.run("a test")).added == ["flood", "tide"]
    foreign = spec("git+https://git.example.org/lab-2/flood@v1")
    registry.commit({"flood.toml": foreign, "tide.toml": spec("tide==1.0"), "new.toml": foreign})
    run = await sync.run("a test")
    assert (run.error, run.outcome, run.added, run.changed) == (None, "published", [], [])
    problems = (await client.get("/registry/problems")).json()["problems"]
    assert [(p["path"], p["line"], p["code"], p["severity"]) for p in problems] == [
        ("models/flood.toml", 4, "package-not-allowed", "error"),
        ("models/new.toml", 4, "package-not-allowed", "error"),
    ]
    assert problems[0]["message"] == (
        "Package 'git+https://git.example.org/lab-2/flood@v1' is not from a source that this "
        "server allows; ask its operator to list the source in PLATFORM_PACKAGE_SOURCES."
    )
    models = (await client.get("/models")).json()["models"]
    assert [(m["name"], m["stale"]) for m in models] == [("flood", True), ("tide", False)]
    assert models[0]["package"] == "git+https://git.example.org/lab/flood@v1"


async def test_submissions_outside_the_list_are_refused(
    client: httpx.AsyncClient, database: Database, registry: Registry, make_mirror: MakeMirror
) -> None:
    registry.commit({"old.toml": spec("git+https://git.example.org/other/old@v1")})
    before_the_list = RegistrySync(database, await open_queue(database), make_mirror())
    assert (await before_the_list.run("a test")).added == ["old"]
    body = {"model_name": "old", "input_dataset": ""}
    refused = await client.post("/submit_job", json=body)
    inline = {"model_spec_toml": spec("x @ https://evil.example/x.whl"), "input_dataset": ""}
    also = await client.post("/submit_job_inline", json=inline)
    for answer, field in ((refused, "model_name"), (also, "model_spec_toml")):
        assert answer.status_code == 422
        assert "PLATFORM_PACKAGE_SOURCES" in answer.json()["detail"]
        assert [fault["field"] for fault in answer.json()["errors"]] == [field]
    inline["model_spec_toml"] = spec("flood @ git+https://git.example.org/lab/flood@v1")
    assert (await client.post("/submit_job_inline", json=inline)).status_code == 200


async def test_builds_reach_the_hosts_of_the_list_of_the_index_and_those_named_besides(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example.org/")
    besides = settings.model_copy(update={"package_hosts": ("files.example.org",)})
    limited = open_environments(besides, tmp_path / "packages").workshop.destinations
    assert not limited.any_public
    assert set(limited.hosts) == {"git.example.org", "files.example.org", "index.example.org"}
    without = besides.model_copy(update={"package_sources": ()})
    assert open_environments(without, tmp_path / "packages").workshop.destinations.any_public


async def test_a_list_that_cannot_be_read_stops_the_start(settings: Settings) -> None:
    wrong = settings.model_copy(update={"package_sources": ("git.example.org",)})
    app = create_app(wrong)
    with pytest.raises(SettingsError, match=r"PLATFORM_PACKAGE_SOURCES: 'git\.example\.org'"):
        async with app.router.lifespan_context(app):
            pass
