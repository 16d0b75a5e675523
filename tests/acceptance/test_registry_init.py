"""A new registry: complete, and ready for its first pull request."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dissmodel_platform.registry.spec import parse_spec
from dissmodel_platform.templates import template_directory
from tests.acceptance.support import PROGRAM, Up, commit, git

CHECKOUT = Path(__file__).parents[2]
WORKFLOW = Path(".github/workflows/check.yml")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command of the command line in an empty directory."""

    def run_(*arguments: object, code: int = 0, cwd: Path | None = None, **variables: str) -> Any:
        done = subprocess.run(
            [*PROGRAM, *map(str, arguments)],
            env={**os.environ, "PLATFORM_HOME": str(tmp_path / "home"), **variables},
            cwd=cwd or tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run_


@pytest.fixture
def registry(run: Run, tmp_path: Path) -> Path:
    run("registry", "init", tmp_path / "configs")
    return tmp_path / "configs"


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    """Read the workflow as YAML 1.1 does, where ``on`` is a truth value."""
    text = (template_directory("dissmodel-configs") / WORKFLOW).read_text()
    content: dict[Any, Any] = yaml.safe_load(text)
    return content


def test_it_is_a_repository_with_one_commit_of_everything(registry) -> None:
    assert git(registry, "status", "--porcelain", "--ignored") == ""
    assert git(registry, "branch", "--show-current") == "main"
    assert git(registry, "rev-list", "--count", "HEAD") == "1"
    assert git(registry, "ls-files").splitlines() == [
        str(WORKFLOW),
        "README.md",
        "catalog.yaml",
        "examples/flood_vector.toml",
        "models/game_of_life.toml",
    ]


def test_it_passes_its_own_check(registry, run, platform: Up) -> None:
    done = run("registry", "check", registry, "--packages-dir", platform.home / "packages")
    assert [line.split("\t")[:6] for line in done.stdout.splitlines()[:2]] == [
        ["catalog.yaml", "ok", "-", "-", "-", "-"],
        ["models/game_of_life.toml", "ok", "ok", "ok", "ok", "ok"],
    ]
    assert "the example completed" in done.stdout
    assert git(registry, "status", "--porcelain", "--ignored") == ""


def test_the_example_is_the_template_s_once_it_is_uncommented(registry) -> None:
    head, _, lines = (registry / "examples/flood_vector.toml").read_text().partition("\n\n")
    assert all(line.startswith("# ") for line in head.splitlines())
    assert all(line.startswith("#") for line in lines.splitlines())
    text = re.sub(r"(?m)^# ?", "", lines)
    template = template_directory("dissmodel-configs") / "models/flood_vector.toml"
    assert text == template.read_text()
    assert parse_spec("models/flood_vector.toml", text).spec is not None


def test_files_that_a_template_s_owner_left_there_are_not_copied(run, tmp_path, registry) -> None:
    assert not list(registry.rglob("__pycache__"))
    assert {path.name for path in registry.glob(".*")} == {".git", ".github"}


def test_an_empty_directory_is_filled_and_stays_the_same_one(run, tmp_path) -> None:
    place = tmp_path / "empty"
    place.mkdir(mode=0o750)
    before = place.stat()
    run("registry", "init", ".", cwd=place)
    after = place.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert (place / "models/game_of_life.toml").is_file()


@pytest.mark.parametrize("what", ["full", "file", "link", "hidden", "below-a-file"])
def test_nothing_is_written_over(run, tmp_path, what) -> None:
    place = tmp_path / "place"
    if what in ("file", "below-a-file"):
        place.write_text("mine")
    elif what == "link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.mkdir()
        (place / (".mine" if what == "hidden" else "mine")).write_text("mine")
    wanted = place / "registry" if what == "below-a-file" else place
    before = sorted(tmp_path.rglob("*"))
    done = run("registry", "init", wanted, code=2)
    assert str(wanted) in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_without_git_nothing_is_left(run, tmp_path) -> None:
    done = run("registry", "init", "configs", code=1, PATH=str(tmp_path))
    assert "install git" in done.stderr
    assert list(tmp_path.iterdir()) == []


class TestWorkflow:
    """What runs on a pull request of a stranger."""

    def test_its_token_can_read_and_nothing_else(self, workflow) -> None:
        assert workflow["permissions"] == {"contents": "read"}
        assert all("permissions" not in job for job in workflow["jobs"].values())
        text = (template_directory("dissmodel-configs") / WORKFLOW).read_text()
        said = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        assert "write" not in said
        assert "secrets" not in said

    def test_it_runs_on_pull_requests_only(self, workflow) -> None:
        assert workflow[True] == {"pull_request": None}

    def test_no_step_holds_text_of_a_pull_request(self, workflow) -> None:
        assert "${{" not in yaml.safe_dump(workflow)

    def test_actions_are_pinned_and_leave_no_credentials(self, workflow) -> None:
        (job,) = workflow["jobs"].values()
        assert 0 < job["timeout-minutes"] <= 60
        uses = {step["uses"]: step.get("with", {}) for step in job["steps"] if "uses" in step}
        assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in uses)
        (checkout,) = [how for name, how in uses.items() if name.startswith("actions/checkout@")]
        assert checkout == {"fetch-depth": 0, "persist-credentials": False}

    def test_its_command_checks_a_pull_request(
        self, workflow, registry, platform: Up, tmp_path
    ) -> None:
        """The very line of the workflow, on a clone as GitHub's checkout makes it."""
        remote, clone = tmp_path / "remote.git", tmp_path / "clone"
        git(tmp_path, "clone", "--quiet", "--bare", str(registry), str(remote))
        git(tmp_path, "clone", "--quiet", str(remote), str(clone))
        git(clone, "switch", "--quiet", "--detach")
        git(clone, "branch", "--quiet", "-D", "main")
        commit(
            clone,
            {
                "models/bad.toml": "[model]\nclass = 1\n",
                "models/life.toml": '[model]\nclass = "game_of_live"\n',
                "models/game_of_life.toml": None,
            },
        )
        (job,) = workflow["jobs"].values()
        *_, install, check = (step["run"] for step in job["steps"] if "run" in step)
        assert install == "pip install 'dissmodel-platform[server]'"
        home = tmp_path / "home"
        home.mkdir()
        (home / "packages").symlink_to(platform.home / "packages")
        done = subprocess.run(
            ["bash", "-e", "-c", check],
            cwd=clone,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PLATFORM_HOME": str(home),
                "GITHUB_BASE_REF": "main",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        commands = [line for line in done.stdout.splitlines() if line.startswith("::")]
        assert commands == [
            "::error file=models/bad.toml,line=2,col=1::class must be text, not a whole number. "
            "(invalid-type)",
            "::error file=models/life.toml,line=2,col=1::class is 'game_of_live', and "
            "'built-in executors' registers 'echo', 'game_of_life'; did you mean 'game_of_life'? "
            "(class-not-registered)",
            "::notice file=models/game_of_life.toml::models/game_of_life.toml is removed.",
        ]


def test_the_workflow_travels_in_the_wheel(tmp_path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("src", "dissmodel-configs", "examples"):
        shutil.copytree(CHECKOUT / name, checkout / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, checkout)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    place = f"dissmodel_platform/_templates/dissmodel-configs/{WORKFLOW}"
    assert place in zipfile.ZipFile(wheel).namelist()
