"""The Python client against a real API."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dissmodel_platform.client.platform import Platform
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
    with (
        serving(tmp_path, database_url) as client,
        Platform(str(client.base_url), KEY) as platform,
    ):
        assert [model["name"] for model in platform.models()] == names
        assert [problem["path"] for problem in platform.problems()] == ["models/broken.toml"]
