"""Maps are compared behind walls, by code that may do and say anything."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments import store as store_module
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.store import Environment, EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.types import EnvironmentKey


@pytest.fixture
def compare(tmp_path: Path) -> Any:
    """Compare two files with an interpreter that is a shell script; its report is ``$REPORT``."""
    store = EnvironmentStore(
        tmp_path / "packages", HARNESS, Workshop(inspect_walls(), Bounds(60.0, 10**9, 10**9))
    )
    for name in ("before.tif", "after.tif"):
        (tmp_path / name).write_text(name)

    def compare(script: str) -> Any:
        python = tmp_path / "environment" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nREPORT="$6"; BEFORE="$7"; AFTER="$8"\n{script}\n')
        python.chmod(0o755)
        directory = tmp_path / "environment"
        environment = Environment(EnvironmentKey("0" * 64), directory, "model", (directory,))
        return store.compare(environment, tmp_path / "before.tif", tmp_path / "after.tif")

    return compare


def test_the_report_is_what_the_environment_wrote(compare: Any) -> None:
    script = """echo "{\\"a\\": \\"$(cat "$BEFORE" "$AFTER")\\", \\"b\\": NaN}" > "$REPORT" """
    assert compare(script) == {"a": "before.tifafter.tif", "b": None}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -SEGV $$", "ended the interpreter"),
        ("exit 3", r"ended the interpreter \(exit code 3\)"),
        ('ln -s "$BEFORE" "$REPORT"', "ended the interpreter"),
        ('mkfifo "$REPORT"', "ended the interpreter"),
        ('echo "{" > "$REPORT"', "Expecting"),
        (
            "printf '[%.0s' $(seq 200) > \"$REPORT\"; printf ']%.0s' $(seq 200) >> \"$REPORT\"",
            "deep",
        ),
        ('head -c 2000000 /dev/zero > "$REPORT"', "larger than 1 MiB"),
    ],
)
def test_what_is_no_report_is_a_reason_and_no_verdict(
    compare: Any, script: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        compare(script)


def test_an_interpreter_that_does_not_end_is_ended(
    compare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COMPARISON_SECONDS", 0.5)
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"longer than 0\.5 s"):
        compare("sleep 600")
    assert time.monotonic() - begin < 50
