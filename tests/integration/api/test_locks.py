"""Locks over HTTP: what a model's runs are made of; the real app and database."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dissmodel_platform.cli import main
from dissmodel_platform.client.platform import Platform
from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments import records
from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.packages import request_for
from dissmodel_platform.errors import BuildFailed, ServerRefused
from tests.integration.api.building import COMMIT, PACKAGE, A, B, Bench, lock, taking_jobs
from tests.integration.api.role import KEY, serving

pytestmark = pytest.mark.anyio


async def keep(database: Database, name: str, dissmodel: str | None, made: Lock) -> None:
    """Store a lock as a worker does that has made it."""
    request = request_for(PACKAGE, dissmodel, allow_local=False)
    row = await records.find_or_create(database, name, request)
    await records.keep_lock(database, row, made, request)


async def test_the_lock_of_a_model_tells_what_its_runs_are_made_of(
    client: httpx.AsyncClient, database: Database, publish: Any
) -> None:
    commit = await publish(flood="")
    await keep(database, "flood", None, lock())
    answer = (await client.get("/models/flood/lock")).json()
    assert answer.pop("created_at").endswith(("Z", "+00:00"))
    packages = answer.pop("packages")
    assert answer == {
        "model_name": "flood",
        "commit": commit,
        "sha256": lock().sha256,
        "file_name": "pylock.flood.toml",
        "package": PACKAGE,
        "package_version": None,
        "package_commit": COMMIT,
        "dissmodel_version": "0.6.2",
    }
    assert packages == [
        {
            "name": "dissmodel", "version": "0.6.2", "source": None, "commit": None,
            "subdirectory": None, "hashes": [f"sha256:{A}"], "built": False, "wheel_sha256": None,
        },
        {
            "name": "flood", "version": "1.0", "source": "https://git.example.org/lab/flood",
            "commit": COMMIT, "subdirectory": None, "hashes": [], "built": True,
            "wheel_sha256": B,
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "accept", "is_toml"),
    [
        ("?format=toml", "*/*", True),
        ("?format=toml", "application/json", True),
        ("", "application/toml", True),
        ("", "application/toml;q=1, */*", True),
        ("", "text/html, */*", False),
        ("", "application/json, application/toml", False),
        ("?format=json", "application/toml", False),
    ],
)
async def test_the_lock_file_itself_is_what_who_asks_for_toml_gets(
    client: httpx.AsyncClient,
    database: Database,
    publish: Any,
    query: str,
    accept: str,
    is_toml: bool,
) -> None:
    await publish(**{"flood.v2": ""})
    await keep(database, "flood.v2", None, lock())
    answer = await client.get(f"/models/flood.v2/lock{query}", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/toml") == is_toml
    if is_toml:
        assert answer.text == lock().text
        assert 'filename="pylock.flood_v2.toml"' in answer.headers["content-disposition"]
    else:
        assert answer.json()["sha256"] == lock().sha256


async def test_each_version_of_a_model_has_its_own_lock(
    client: httpx.AsyncClient, database: Database, publish: Any
) -> None:
    first = await publish(flood='dissmodel = "0.6.1"\n')
    await publish(flood='dissmodel = "0.6.2"\n')
    await keep(database, "flood", "0.6.2", lock("0.6.2"))
    await keep(database, "flood", "0.6.1", lock("0.6.1"))
    newest = (await client.get("/models/flood/lock")).json()
    earlier = (await client.get("/models/flood/lock", params={"commit": first})).json()
    assert (newest["dissmodel_version"], earlier["dissmodel_version"]) == ("0.6.2", "0.6.1")


async def test_without_a_lock_the_answer_says_why(
    client: httpx.AsyncClient, database: Database, publish: Any
) -> None:
    await publish(flood="", dry='dissmodel = "what?"\n')

    async def refusal(name: str) -> str:
        answer = await client.get(f"/models/{name}/lock?format=toml")
        assert answer.status_code == 404
        kind = "model-not-found" if name == "x" else "lock-not-found"
        assert answer.json()["type"] == f"urn:dissmodel-platform:{kind}"
        return str(answer.json()["detail"])

    assert "has no lock yet; a worker makes it" in await refusal("flood")
    request = request_for(PACKAGE, None, allow_local=False)
    row = await records.find_or_create(database, "flood", request)
    await records.mark_failed(database, row, BuildFailed("The compiler is missing.", "cc: ?"))
    assert "The compiler is missing." in await refusal("flood")
    assert "'what?' cannot be read" in await refusal("dry")
    assert "no model 'x'" in await refusal("x")


@pytest.mark.usefixtures("working")
async def test_a_new_lock_counts_and_the_answer_says_what_changed(
    client: httpx.AsyncClient, database: Database, publish: Any, bench: Bench
) -> None:
    commit = await publish(flood="")
    await keep(database, "flood", None, lock("0.6.1"))
    answer = await client.post("/models/flood/relock")
    told = answer.json()
    assert (answer.status_code, told["state"], told["commit"]) == (200, "done", commit)
    assert told["old_lock_sha256"] == lock("0.6.1").sha256
    assert told["new_lock_sha256"] == lock().sha256
    assert (told["added"], told["removed"]) == ([], [])
    before, after = {"version": "0.6.1", "commit": None}, {"version": "0.6.2", "commit": None}
    assert told["changed"] == [{"name": "dissmodel", "from": before, "to": after}]
    assert told["message"].endswith("packages: 0 added, 0 removed, 1 changed.")
    assert (await client.get("/models/flood/lock")).json()["sha256"] == lock().sha256
    assert await records.load_lock(database, lock("0.6.1").sha256) == lock("0.6.1"), "is kept"

    again = (await client.post("/models/flood/relock")).json()
    assert again["old_lock_sha256"] == again["new_lock_sha256"] == lock().sha256
    assert again["message"].startswith("Nothing changes")
    looked_at = await client.get(f"/models/flood/relocks/{told['relock_id']}")
    assert looked_at.json() == told


@pytest.mark.usefixtures("working")
async def test_a_relock_that_fails_leaves_the_old_lock_and_says_why(
    client: httpx.AsyncClient, database: Database, publish: Any, bench: Bench
) -> None:
    await publish(flood="")
    await keep(database, "flood", None, lock())
    bench.makes = BuildFailed("The compiler is missing.", "cc: not found\0")
    answer = await client.post("/models/flood/relock")
    assert answer.status_code == 502
    assert answer.json()["type"] == "urn:dissmodel-platform:environment-failed"
    assert answer.json()["detail"] == (
        "The lock of 'flood' stays as it was. The compiler is missing."
    )
    assert answer.json()["output_tail"] == "cc: not found\N{SYMBOL FOR NULL}"
    assert (await client.get("/models/flood/lock")).json()["sha256"] == lock().sha256


async def test_a_relock_that_takes_long_can_be_looked_at_later(
    client: httpx.AsyncClient,
    database: Database,
    publish: Any,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await publish(flood="")
    monkeypatch.setattr("dissmodel_platform.services.build_requests.ANSWER_SECONDS", 0.0)
    answer = await client.post("/models/flood/relock")
    told = answer.json()
    assert (answer.status_code, told["state"]) == (202, "waiting")
    place = f"/models/flood/relocks/{told['relock_id']}"
    assert f"GET {place} says what came of it" in told["message"]
    assert (await client.get(place)).json() == told
    for other in (f"/models/tide/relocks/{told['relock_id']}", f"{place[:-4]}0000"):
        assert (await client.get(other)).status_code == 404
    assert (await client.post("/models/tide/relock")).status_code == 404

    async with taking_jobs(database, bench), asyncio.timeout(30):
        while (await client.get(place)).json()["state"] == "waiting":
            await asyncio.sleep(0.05)
    done = (await client.get(place)).json()
    assert (done["state"], done["old_lock_sha256"]) == ("done", None)
    assert [package["name"] for package in done["added"]] == ["dissmodel", "flood"]


@pytest.mark.usefixtures("working")
async def test_client_and_command_make_a_new_lock(
    database: Database, database_url: str, publish: Any, bench: Bench, tmp_path: Path
) -> None:
    await publish(flood="")
    await keep(database, "flood", None, lock("0.6.1"))
    with serving(tmp_path, database_url) as http, Platform(str(http.base_url), KEY) as platform:
        options = ["--url", str(http.base_url), "--key", KEY]
        words = ["models", "relock", "flood", *options]
        done = await asyncio.to_thread(CliRunner().invoke, main.app, words)
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines() == ["dissmodel\t0.6.1\t0.6.2"]
        assert "1 changed" in done.stderr
        assert (await asyncio.to_thread(platform.relock, "flood"))["changed"] == []
        bench.makes = BuildFailed("The compiler is missing.")
        with pytest.raises(ServerRefused, match=r"stays as it was\. The compiler"):
            await asyncio.to_thread(platform.relock, "flood")


async def test_client_and_command_show_the_lock(
    database: Database, database_url: str, publish: Any, tmp_path: Path
) -> None:
    await publish(flood="")
    await keep(database, "flood", None, lock())
    with serving(tmp_path, database_url) as http, Platform(str(http.base_url), KEY) as platform:
        assert platform.lock("flood")["sha256"] == lock().sha256
        assert platform.lock_file("flood") == lock().text
        with pytest.raises(ServerRefused, match="no model"):
            platform.lock("x")

        def command(*words: str) -> str:
            options = ("--url", str(http.base_url), "--key", KEY)
            done = CliRunner().invoke(main.app, ["models", *words, *options])
            assert done.exit_code == 0, done.output
            return done.stdout

        assert command("lock", "flood", "--toml") == lock().text
        assert json.loads(command("lock", "flood", "--json"))["sha256"] == lock().sha256
        lines = [line.split("\t") for line in command("lock", "flood").splitlines()]
        address = f"https://git.example.org/lab/flood@{COMMIT}"
        assert lines == [["dissmodel", "0.6.2", "index", ""], ["flood", "1.0", address, "built"]]
        shown = [json.loads(command(*words)) for words in (("flood",), ("show", "flood"))]
        assert [model["model_name"] for model in shown] == ["flood", "flood"]
        assert [model["name"] for model in json.loads(command("--json"))] == ["flood"]
