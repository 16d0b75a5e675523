"""`registry status` stays readable, however much is wrong."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from dissmodel_platform.cli import registry

PROBLEM = {"path": "models/a.toml", "line": 1, "severity": "error", "message": "A sentence."}


@pytest.fixture(autouse=True)
def many_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry have more problems than anybody reads."""

    async def found(_: object) -> registry._Status:
        return registry._Status("c" * 40, 3, [PROBLEM] * 150, None, None)

    monkeypatch.setattr(registry, "_status", found)
    monkeypatch.setattr(registry, "with_database", lambda settings: settings)
    monkeypatch.setattr(registry, "configure_logging", lambda *_: None)


def test_the_first_problems_are_listed_and_the_others_counted() -> None:
    result = CliRunner().invoke(registry.app, ["status"])
    assert result.stdout.count("models/a.toml") == 100
    assert "50 more problems; `--json` shows all." in result.stderr


def test_as_json_all_problems_are_there() -> None:
    result = CliRunner().invoke(registry.app, ["status", "--json"])
    assert len(json.loads(result.stdout)["problems"]) == 150
