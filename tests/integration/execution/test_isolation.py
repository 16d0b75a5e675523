"""What a model's process sees: its own directory, its own variables, and nothing of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.run import Runner, RunnerParts

pytestmark = pytest.mark.anyio

SECRETS = {
    "API_KEYS": "a-secret-key",
    "DATABASE_URL": "postgresql://u:a-secret-password@h/d",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-store",
    "GITHUB_TOKEN": "a-secret-token",
    "PLATFORM_HOME": "/somewhere",
}


@pytest.mark.parametrize("mode", ["fork", "fresh"])
async def test_a_run_sees_none_of_the_platforms_secrets_and_no_descriptor_of_its_server(
    lab: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    launcher = Launcher(1 if mode == "fork" else 0, inspect_walls())
    experiment = await lab.run(
        "describes", runner=Runner(RunnerParts(**{**vars(lab.parts), "launcher": launcher}))
    )
    await launcher.close()
    assert experiment.outcome["start_mode"] == mode
    seen = json.loads(await lab.result(experiment))
    assert not SECRETS.keys() & seen["environment"].keys()
    assert "secret" not in json.dumps(seen)
    kinds = list(seen["descriptors"].values())
    assert kinds.count("pipe") == 3
    assert set(kinds) <= {"pipe", "device"}, seen["descriptors"]
    assert seen["directory"].endswith("/outputs")
    assert seen["environment"]["HOME"] != "/root"
    assert not any("dissmodel_platform" in entry for entry in seen["path"])


async def test_the_model_sees_no_output_path_and_its_own_id(lab: Any) -> None:
    experiment = await lab.run("describes")
    record = json.loads(await lab.result(experiment))["record"]
    assert record["output_path"] is None
    assert record["experiment_id"] == experiment.id
    assert record["status"] == "running"
    assert record["code_version"].startswith("0.6")
