"""``environments``: what an operator sees of a machine's environments, and what he can remove."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dissmodel_platform.cli.main import app
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.seals import MARKER
from dissmodel_platform.environments.store import Environment, EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.errors import InvalidInput, NotFound
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def environment(
    repositories: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    """Make one home with one environment."""
    home = tmp_path_factory.mktemp("home")
    store = EnvironmentStore(home / "packages", HARNESS, Workshop(inspect_walls(), Bounds(120)))
    library = f"dissmodel @ {repositories.requirement('stand-in-dissmodel')}"
    package = repositories.requirement("good")
    request = PackageRequest(package, (package, library), None, "", "3.11")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLATFORM_HOME", str(home))
        yield store.acquire(store.lock(request), request).environment


@pytest.fixture
def command(environment: Environment) -> Command:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["environments", *arguments])

    return run


def test_the_list_is_a_line_for_each_environment_in_a_pipe(
    environment: Environment, command: Command
) -> None:
    done = command("list")
    assert done.exit_code == 0
    [line] = done.stdout.splitlines()
    key, package, distribution, python, size, own, used, in_use = line.split("\t")
    assert (key, distribution, python, in_use) == (environment.key, "good-model", "3.11", "no")
    assert package.startswith("git+file:")
    assert "kB" in size
    assert "kB" in own
    assert used.endswith("+00:00")
    assert done.stderr.startswith("environments: 1; with the package cache ")


def test_the_list_says_what_is_in_use_and_sizes_in_bytes_as_json(
    environment: Environment, command: Command
) -> None:
    with environment.use():
        [told] = json.loads(command("list", "--json").stdout)
    assert told["in_use"] is True
    assert 0 < told["own_bytes"] == told["size_bytes"], "there is no other one"


def test_inspect_shows_all_of_one_environment(environment: Environment, command: Command) -> None:
    done = command("inspect", environment.key[:6], "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["key"] == environment.key
    assert told["directory"] == str(environment.directory)
    assert Path(told["libraries"]).is_dir()
    assert sorted(told["wheels"]) == ["dissmodel", "good-model"]
    assert Path(told["lock"]["path"]).is_file()
    assert told["walls"] == list(inspect_walls().builds)
    assert told["damage"] == []
    lines = command("inspect", environment.key).stdout.splitlines()
    assert lines[0] == f"key: {environment.key}"
    assert f"wheel: good-model sha256 {told['wheels']['good-model']}" in lines
    assert lines[-1] == "files: as they were installed"


def test_inspect_names_what_is_damaged(environment: Environment, command: Command) -> None:
    [module] = environment.directory.glob("lib/*/site-packages/good_model/__init__.py")
    stat, kept = module.stat(), module.read_bytes()
    module.unlink()
    done = command("inspect", environment.key)
    assert done.exit_code == 1
    assert f"damaged: {module.relative_to(environment.directory.parents[1])}" in done.stdout
    module.write_bytes(kept)
    module.chmod(stat.st_mode)
    os.utime(module, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert command("inspect", environment.key).exit_code == 0


def test_a_key_that_is_not_there_or_not_whole_enough_is_told(
    environment: Environment, command: Command
) -> None:
    assert isinstance(command("inspect", "x").exception, NotFound)
    other = environment.directory.with_name(environment.key[:6] + "0" * 58)
    other.mkdir()
    assert isinstance(command("inspect", environment.key[:6]).exception, InvalidInput)
    done = command("inspect", other.name)
    assert done.exit_code == 1, "what has no marker is no environment"
    assert f"damaged: environments/{other.name}/{MARKER}" in done.stdout
    assert len(command("list").stdout.splitlines()) == 2
    other.rmdir()


def test_prune_removes_what_is_not_in_use(
    environment: Environment, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_ENVIRONMENTS_MAX_BYTES", "0")
    assert isinstance(command("prune").exception, InvalidInput)
    monkeypatch.delenv("PLATFORM_ENVIRONMENTS_MAX_BYTES")
    os.utime(environment.directory / MARKER, (0, 0))
    assert json.loads(command("prune", "--json").stdout)["environments"] == []
    with environment.use():
        assert command("prune", "--all").stdout == ""
    assert environment.directory.exists()
    done = command("prune", "--max-bytes", "1")
    assert done.stdout == f"{environment.key}\n"
    assert "removed: 1; from " in done.stderr
    assert not environment.directory.exists()
    assert command("list").stdout == ""


def test_a_machine_without_environments_has_an_empty_list(tmp_path: Path, command: Command) -> None:
    done = command("list", "--packages-dir", str(tmp_path / "none"), "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [])
    assert not (tmp_path / "none").exists()
