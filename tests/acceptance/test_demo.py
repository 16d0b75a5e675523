"""``demo``: the researcher's workflow once through, with nothing left behind but the results."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import struct
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.support import ESCAPES, PROGRAM, on_terminal, processes_below


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Make the directory that the command takes for the system's temporary one."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


def assert_nothing_is_left(temporary: Path) -> None:
    assert processes_below(temporary) == {}
    assert list(temporary.iterdir()) == []


def png_size(path: Path) -> tuple[int, int]:
    """Read width and height (PNG specification, 5.2 and 11.2.2), and see that it is whole."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
    assert data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_the_demo_runs_the_workflow_and_leaves_its_results_alone(
    tmp_path: Path, temporary: Path
) -> None:
    output = tmp_path / "results" / "demo"
    strange = {"PLATFORM_HOME": str(tmp_path / "mine"), "API_KEYS": "mine", "PLATFORM_ODD": "1"}
    done = subprocess.run(
        [*PROGRAM, "demo", "--output", str(output)],
        env={**os.environ, "TMPDIR": str(temporary), **strange},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_nothing_is_left(temporary)
    assert not (tmp_path / "mine").exists()

    assert {path.name for path in output.iterdir()} == {
        "flood.gpkg",
        "record.json",
        "reproduction.json",
        "flood.png",
    }
    record = json.loads((output / "record.json").read_text())
    assert record["model_name"] == "flood_vector"
    assert record["status"] == "completed"
    assert json.loads((output / "reproduction.json").read_text())["verdict"] == "identical"
    width, height = png_size(output / "flood.png")
    assert 600 <= width <= 3000
    assert 400 <= height <= 3000
    with closing(sqlite3.connect(output / "flood.gpkg")) as database:
        (cells,) = database.execute("SELECT count(*) FROM flood WHERE year_flooded > 0").fetchone()
    assert cells > 0

    for told in (
        record["model_commit"],
        record["package_commit"],
        record["output_path"],
        record["output_sha256"],
        record["input_sha256"],
        "flood_vector:",
        "game_of_life:",
        "second run:",
        "phases:",
        "identical",
    ):
        assert told in done.stdout, told
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("step", ["Start the platform", "Build the environment"])
def test_ctrl_c_leaves_neither_a_process_nor_a_file(
    tmp_path: Path, temporary: Path, step: str
) -> None:
    code, written = on_terminal(
        {**os.environ, "TMPDIR": str(temporary)},
        *("demo", "--output", "results"),
        cwd=tmp_path,
        until=lambda screen: step in screen,
    )
    assert code == 130, written
    assert "Traceback" not in ESCAPES.sub("", written)
    assert_nothing_is_left(temporary)
    assert not (tmp_path / "results").exists()


def test_a_demo_that_is_terminated_leaves_nothing_either(tmp_path: Path, temporary: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "demo"],
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("Sync the registry" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
    assert_nothing_is_left(temporary)
