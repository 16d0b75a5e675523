"""The registry that a newcomer starts with: real repositories, made once and then left alone."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from dissmodel_platform.services.local_registry import EXAMPLE_TAG, make_local_registry


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
    )
    return done.stdout.strip()


def test_both_repositories_are_committed_and_the_spec_names_the_tagged_package(
    tmp_path: Path,
) -> None:
    made = make_local_registry(tmp_path / "local")
    for repository in (made.registry, made.package):
        assert git(repository, "status", "--porcelain") == ""
        assert git(repository, "branch", "--show-current") == "main"
        assert git(repository, "rev-list", "--count", "HEAD") == "1"
    head = git(made.package, "rev-parse", "HEAD")
    assert git(made.package, "rev-parse", f"{EXAMPLE_TAG}^{{commit}}") == head
    spec = tomllib.loads((made.registry / "models" / "flood_vector.toml").read_text())
    assert spec["model"]["package"] == made.package_requirement
    assert made.registry_url == made.registry.as_uri()
    assert {path.name for path in (tmp_path / "local").iterdir()} == {
        "dissmodel-configs",
        "coastal-flood",
    }


def test_what_somebody_has_made_of_it_is_left_alone(tmp_path: Path) -> None:
    made = make_local_registry(tmp_path)
    (made.registry / "models" / "mine.toml").write_text("[model]\n")
    commits = [git(repository, "rev-parse", "HEAD") for repository in (made.registry, made.package)]
    again = make_local_registry(tmp_path)
    assert again == made
    assert (made.registry / "models" / "mine.toml").exists()
    assert commits == [
        git(repository, "rev-parse", "HEAD") for repository in (made.registry, made.package)
    ]


def test_a_start_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    (tmp_path / ".coastal-flood" / "half").mkdir(parents=True)
    (tmp_path / ".dissmodel-configs").mkdir()
    made = make_local_registry(tmp_path)
    assert git(made.registry, "status", "--porcelain") == ""
    assert not (made.package / "half").exists()


@pytest.mark.parametrize("name", ["with space", "50%", "münchen", "a#b", "q?", "at@home"])
def test_the_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    made = make_local_registry(tmp_path / name)
    assert git(made.registry, "rev-list", "--count", "HEAD") == "1"
    spec = tomllib.loads((made.registry / "models" / "flood_vector.toml").read_text())
    assert spec["model"]["package"] == made.package_requirement


def test_the_users_own_git_configuration_does_not_matter(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = tmp_path / "home"
    strange.mkdir()
    (strange / ".gitconfig").write_text(
        "[commit]\n\tgpgsign = true\n[user]\n\tuseConfigOnly = true\n"
        f"[core]\n\thooksPath = {strange}\n[init]\n\tdefaultBranch = trunk\n"
    )
    hook = strange / "pre-commit"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    monkeypatch.setenv("HOME", str(strange))
    made = make_local_registry(tmp_path / "local")
    assert git(made.registry, "log", "-1", "--format=%an") == "DisSModel Platform"
