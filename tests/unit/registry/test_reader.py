"""The checksum of the reading code covers all of it."""

from __future__ import annotations

import ast
from pathlib import Path

from dissmodel_platform import registry
from dissmodel_platform.registry.reader import MODULES, reader_version

PACKAGE = "dissmodel_platform.registry."
NOT_READING = {"mirror_reader"}  # hands over what git has; knows nothing of specs


def imported_by(module: str) -> set[str]:
    source = (Path(registry.__path__[0]) / f"{module}.py").read_text(encoding="utf-8")
    return {
        node.module.removeprefix(PACKAGE)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE)
    }


def test_every_module_that_decides_on_a_file_counts() -> None:
    counted = {"snapshot", "catalog"}
    waiting = list(counted)
    while waiting:
        more = imported_by(waiting.pop()) - counted - NOT_READING
        counted |= more
        waiting += more
    assert counted == set(MODULES)


def test_the_same_code_has_the_same_checksum() -> None:
    version = reader_version()
    reader_version.cache_clear()
    assert reader_version() == version
    assert len(version) == 16
