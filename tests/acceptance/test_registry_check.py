"""``registry check`` as a person or a script meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.support import PROGRAM, Up, commit, git, processes_below
from tests.processes import wait_until

ECHO = """\
[model]
class = "echo"

[model.parameters]
message = "hi"
pause = 0

[model.example]
parameters = {message = "hello"}
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    place = tmp_path / "registry"
    commit(place, {"models/echo.toml": ECHO})
    return place


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Make the directory for the temporary files of the commands."""
    place = tmp_path / "temporary"
    place.mkdir()
    return place


@pytest.fixture
def start(registry: Path, temporary: Path, platform: Up, tmp_path: Path) -> Iterator[Start]:
    """Start checks in the registry; afterwards nothing of them is left."""
    started: list[subprocess.Popen[str]] = []

    def start_(
        *arguments: str, own_packages: bool = False, **variables: str
    ) -> subprocess.Popen[str]:
        environment = {**os.environ, "TMPDIR": str(temporary), "PLATFORM_HOME": str(tmp_path / "h")}
        command = [*PROGRAM, "registry", "check", *arguments]
        if not own_packages:
            command += ["--packages-dir", str(platform.home / "packages")]
        started.append(
            subprocess.Popen(
                command,
                cwd=registry,
                env={**environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start_
    for process in started:
        process.kill()
        process.communicate()
    assert processes_below(temporary) == {}
    assert list(temporary.iterdir()) == []


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    said = process.communicate(timeout=300)
    assert process.returncode == code, said
    assert "Traceback" not in said[1]
    return said


def test_a_good_registry_ends_well(start, registry) -> None:
    out, progress = ended(start(), 0)
    table, example, summary = out.splitlines()
    assert table.split("\t")[:6] == ["models/echo.toml", "ok", "ok", "ok", "ok", "ok"]
    assert example.endswith("; the end of its log: hello")
    assert summary.startswith("1 file: 0 faults, 0 warnings (")
    assert "models/echo.toml: running its example" in progress
    assert git(registry, "status", "--porcelain", "--ignored") == ""


def test_a_fault_is_exit_code_1_and_a_sentence(start, registry) -> None:
    (registry / "models/echo.toml").write_text(ECHO.replace('"echo"', '"ecko"'))
    out, _ = ended(start(), 1)
    assert (
        "models/echo.toml:2:1: error: class is 'ecko', and 'built-in executors' registers 'echo', "
        "'game_of_life'; did you mean 'echo'? (class-not-registered)"
    ) in out.splitlines()


def test_json_stands_alone_on_standard_output(start) -> None:
    out, _ = ended(start("--format", "json"), 0)
    (file,) = json.loads(out)["files"]
    assert set(file["steps"].values()) == {"ok"}
    assert file["example"]["status"] == "completed"


def test_without_building_nothing_is_started(start, registry, tmp_path) -> None:
    """Not even a database: it works where the operator's settings would not."""
    (registry / "models/bad.toml").write_text("")
    variables = {"DATABASE_URL": "postgresql://nowhere.invalid/x", "STORAGE_URL": "s3://nowhere"}
    out, progress = ended(start("--no-build", **variables), 1)
    assert progress == ""
    assert out.splitlines()[:2] == [
        "models/bad.toml\tfault\t-\t-\t-\t-\t-",
        "models/echo.toml\tok\t-\t-\t-\t-\t-",
    ]
    assert not (tmp_path / "h").exists()


def test_the_operator_s_database_and_store_are_left_alone(start) -> None:
    variables = {"DATABASE_URL": "postgresql://nowhere.invalid/x", "STORAGE_URL": "s3://nowhere"}
    ended(start(**variables), 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/"], "is not in the work tree of a git repository"),
        (["nowhere"], "There is no directory"),
        (["--base", "nowhere"], "There is no commit 'nowhere'"),
        (["--base=--all"], "There is no commit '--all'"),
        (["--format", "xml"], "xml"),
        (["--bse", "main"], "--bse"),
    ],
)
def test_bad_usage_is_exit_code_2(start, arguments, words) -> None:
    _, sentence = ended(start(*arguments), 2)
    assert words in " ".join(sentence.split())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 20])
def test_an_interrupted_check_leaves_nothing(
    start, registry, temporary, tmp_path, signum, times
) -> None:
    """The fixture looks for processes and files; an impatient person presses it many times."""
    (registry / "models/echo.toml").write_text(ECHO.replace('message = "hello"', "pause = 600"))
    check = start()
    wait_until(
        lambda: "/runs/" in " ".join(str(path) for path in temporary.glob("*/platform/runs/*")),
        "the example runs",
    )
    check.send_signal(signum)
    for _ in range(times - 1):
        if check.poll() is None:
            check.send_signal(signum)
    ended(check, 130)
    assert processes_below(temporary) == {}
    assert list(temporary.iterdir()) == []


def test_the_data_directory_is_private_from_the_start(start, tmp_path) -> None:
    ended(start("--base", "HEAD", own_packages=True), 0)
    assert (tmp_path / "h").stat().st_mode & 0o777 == 0o700
