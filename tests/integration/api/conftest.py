"""The registries of the registry's own tests, and a worker that builds nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.api.building import bench, client, publish, settings, working
from tests.integration.api.role import Api
from tests.integration.api.runs import Runs
from tests.integration.registry.conftest import make_mirror, registry

__all__ = ["bench", "client", "make_mirror", "publish", "registry", "settings", "working"]


@pytest.fixture
def runs(database_url: str) -> Runs:
    return Runs(database_url)


@pytest.fixture
def api(tmp_path: Path, database_url: str) -> Iterator[Api]:
    """Start the api, which serves a registry of one model."""
    models = tmp_path / "r" / "models"
    models.mkdir(parents=True)
    (models / "echo.toml").write_text('[model]\nclass = "echo"\n')
    identity = ("-c", "user.name=Ana", "-c", "user.email=ana@example.org")
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        (*identity, "commit", "--quiet", "--message=One"),
    ):
        subprocess.run(["git", "-C", str(tmp_path / "r"), *arguments], check=True)
    api = Api(tmp_path, database_url)
    api.run("registry", "sync")
    api.start()
    yield api
    api.kill()
