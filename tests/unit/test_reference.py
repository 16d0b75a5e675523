"""The reference pages name every endpoint, every kind of error and every command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dissmodel_platform import errors
from dissmodel_platform.api.app import create_app
from dissmodel_platform.api.problems import status_of
from dissmodel_platform.cli.main import COMMANDS
from dissmodel_platform.settings import load_settings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def kinds(root: type[errors.PlatformError]) -> Iterator[type[errors.PlatformError]]:
    yield root
    for child in root.__subclasses__():
        yield from kinds(child)


def test_every_endpoint_is_in_the_reference(tmp_path: Path) -> None:
    text = (REFERENCE / "http-api.md").read_text(encoding="utf-8")
    paths = create_app(load_settings(home=tmp_path)).openapi()["paths"]
    written = {re.sub(r"\{[^}]*\}", "{}", path) for path in re.findall(r"/[a-z][^\s`?|]*", text)}
    missing = [path for path in paths if re.sub(r"\{[^}]*\}", "{}", path) not in written]
    assert missing == []


def test_every_error_that_the_api_answers_is_in_the_reference() -> None:
    text = (REFERENCE / "http-api.md").read_text(encoding="utf-8")
    for kind in kinds(errors.PlatformError):
        status = status_of(kind.__new__(kind))
        if status != 500:
            row = rf"`urn:dissmodel-platform:{kind.code}` \| {status} \|"
            assert re.search(row, text), f"{kind.__name__}: no row for {kind.code}, {status}"


def test_every_command_is_in_the_reference() -> None:
    text = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert re.search(rf"`[^`]*\b{name}\b", text), f"{name} is missing"


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
