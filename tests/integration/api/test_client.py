"""The Python client and the command line against a real API."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import httpx
import psycopg
import pytest

from dissmodel_platform.client.platform import Platform
from dissmodel_platform.errors import ServerRefused
from tests.integration.api.role import KEY, PROGRAM, serving


def test_all_models_are_listed_however_many_pages_they_fill(
    tmp_path: Path, database_url: str
) -> None:
    registry = tmp_path / "configs"
    (registry / "models").mkdir(parents=True)
    names = [f"model_{number:04}" for number in range(1001)]
    for name in names:
        (registry / "models" / f"{name}.toml").write_text('[model]\nclass = "echo"\n')
    (registry / "models" / "broken.toml").write_text("[model\n")
    publish(tmp_path, database_url, registry)
    with (
        serving(tmp_path, database_url) as client,
        Platform(str(client.base_url), KEY) as platform,
    ):
        assert [model["name"] for model in platform.models()] == names
        assert [problem["path"] for problem in platform.problems()] == ["models/broken.toml"]


@pytest.fixture
def registry_of_echo(tmp_path: Path, database_url: str) -> None:
    """Publish a registry whose one model is the built-in ``echo``."""
    registry = tmp_path / "configs"
    (registry / "models").mkdir(parents=True)
    (registry / "models" / "echo.toml").write_text('[model]\nclass = "echo"\n')
    publish(tmp_path, database_url, registry)


@pytest.mark.usefixtures("registry_of_echo")
def test_a_checksum_goes_with_a_submission(tmp_path: Path, database_url: str) -> None:
    grid = tmp_path / "grid.json"
    grid.write_text("[1.0]")
    right, wrong = hashlib.sha256(b"[1.0]").hexdigest(), "0" * 64
    with serving(tmp_path, database_url) as client:
        with Platform(str(client.base_url), KEY) as platform:
            uri = platform.upload(grid)["uri"]
            assert platform.submit("echo", uri, input_sha256=right)["input_sha256"] == right
            with pytest.raises(ServerRefused, match=wrong):
                platform.submit("echo", uri, input_sha256=wrong)
        for body in ({"input_sha256": "abc"}, {"input_sha256": 7}):
            answer = client.post(
                "/submit_job", json={"model_name": "echo", "input_dataset": uri, **body}
            )
            assert answer.status_code == 422
        assert command(client, "submit", "echo", str(grid), "--input-sha256", right).returncode == 0
        refused = command(client, "submit", "echo", str(grid), "--input-sha256", wrong)
        assert refused.returncode != 0
        assert right in refused.stderr
        assert wrong in refused.stderr


@pytest.mark.usefixtures("registry_of_echo")
def test_the_command_line_uploads_a_shapefile_with_its_side_files(
    tmp_path: Path, database_url: str
) -> None:
    for name in ("grid.shp", "grid.shx", "grid.DBF", "grid.prj", "grid.txt", "grid2.cpg"):
        (tmp_path / name).write_text(name)
    with serving(tmp_path, database_url) as client:
        done = command(client, "submit", "echo", str(tmp_path / "grid.shp"))
        assert done.returncode == 0, done.stderr
        (tmp_path / "grid.shx").unlink()
        refused = command(client, "submit", "echo", str(tmp_path / "grid.shp"))
        assert refused.returncode != 0
        assert "grid.shp has no .shx beside it" in refused.stderr
    with psycopg.connect(database_url) as connection:
        [[inputs]] = connection.execute("SELECT submission->'inputs' FROM experiments").fetchall()
    [entry] = inputs
    assert {side["suffix"] for side in entry["side_files"]} == {".shx", ".dbf", ".prj"}


def command(client: httpx.Client, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line against a platform."""
    variables = {"DISSMODEL_PLATFORM_URL": str(client.base_url), "DISSMODEL_PLATFORM_KEY": KEY}
    return subprocess.run(
        [*PROGRAM, *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def publish(tmp_path: Path, database_url: str, registry: Path) -> None:
    """Commit a registry and sync it."""
    identity = ("-c", "user.name=Ana", "-c", "user.email=ana@example.org")
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        (*identity, "commit", "--quiet", "--message=Many"),
    ):
        subprocess.run(["git", "-C", str(registry), *arguments], check=True)
    variables = {
        "PLATFORM_HOME": str(tmp_path / "home"),
        "DATABASE_URL": database_url,
        "CONFIGS_REPO": registry.as_uri(),
        "PLATFORM_ALLOW_LOCAL_REGISTRY": "true",
    }
    subprocess.run([*PROGRAM, "registry", "sync"], env={**os.environ, **variables}, check=True)
