"""What can be called, and what can go wrong, stands in the reference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dissmodel_platform import errors
from dissmodel_platform.api.app import create_app
from dissmodel_platform.api.problems import status_of
from dissmodel_platform.cli.main import COMMANDS
from dissmodel_platform.settings import Settings

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


def every(kind: type[errors.PlatformError]) -> list[type[errors.PlatformError]]:
    children = [c for c in kind.__subclasses__() if c.__module__ == errors.__name__]
    return [kind, *(grandchild for child in children for grandchild in every(child))]


def test_every_endpoint_is_in_the_reference(tmp_path: Path) -> None:
    text = (REFERENCE / "http-api.md").read_text(encoding="utf-8")
    # `{experiment_id}` and `{id}` are the same place
    written = {re.sub(r"\{\w+\}", "{}", path) for path in re.findall(r" (/[\w/{}]*)", text)}
    document = create_app(Settings(home=tmp_path)).openapi()
    assert {re.sub(r"\{\w+\}", "{}", path) for path in document["paths"]} <= written


@pytest.mark.parametrize("kind", every(errors.PlatformError))
def test_every_error_that_the_api_answers_is_in_the_reference(
    kind: type[errors.PlatformError],
) -> None:
    text = (REFERENCE / "http-api.md").read_text(encoding="utf-8")
    status = status_of(kind.__new__(kind))
    if status != 500:
        assert f"| `urn:dissmodel-platform:{kind.code}` | {status} |" in text


def test_every_command_is_in_the_reference() -> None:
    text = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert re.search(rf"`{command}[` ]", text), command
