"""`registry accept` as a process: it accepts what it can publish, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dissmodel_platform.database.pool import Database
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.registry.holds import waiting_hold
from dissmodel_platform.registry.index import latest_publication
from dissmodel_platform.services.sync import RegistrySync
from tests.integration.registry.conftest import MakeMirror, Registry

pytestmark = pytest.mark.anyio


@pytest.fixture
async def held(database: Database, registry: Registry, make_mirror: MakeMirror) -> str:
    """Let a commit wait."""
    sync = RegistrySync(database, await open_queue(database), make_mirror())
    registry.commit({f"m{n}.toml": registry.model(f"m{n}") for n in range(8)})
    await sync.run("test")
    commit = registry.commit({"m0.toml": registry.model("m0")})
    assert (await sync.run("test")).outcome == "held"
    return commit


def accept(
    tmp_path: Path, url: str, commit: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PLATFORM_HOME": str(tmp_path / "home"),
        "DATABASE_URL": url,
        "PLATFORM_ALLOW_LOCAL_REGISTRY": "true",
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-m", "dissmodel_platform", "registry", "accept", commit],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


async def test_where_no_sync_could_follow_nothing_is_accepted(
    tmp_path: Path, database_url: str, database: Database, registry: Registry, held: str
) -> None:
    for settings, named in (
        ({}, "CONFIGS_REPO"),
        (
            {
                "CONFIGS_REPO": registry.directory.as_uri(),
                "PLATFORM_REGISTRY_REQUIRE_SIGNATURE": "true",
            },
            "SIGN",
        ),
    ):
        done = accept(tmp_path, database_url, held, **settings)
        assert done.returncode == 2
        assert named in done.stderr
        waiting = await waiting_hold(database)
        assert waiting is not None
        assert waiting.revision == held


async def test_what_is_accepted_is_published(
    tmp_path: Path, database_url: str, database: Database, registry: Registry, held: str
) -> None:
    done = accept(tmp_path, database_url, held, CONFIGS_REPO=registry.directory.as_uri())
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    publication = await latest_publication(database)
    assert publication is not None
    assert publication.revision == held
