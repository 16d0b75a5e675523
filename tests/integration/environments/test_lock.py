"""Locks that real uv makes: whole, exact, and naming the model's own package."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dissmodel_platform.environments.lock import Lock, environment_key
from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.store import EnvironmentStore

Small = Callable[..., PackageRequest]


def test_a_git_package_is_locked_to_its_commit_and_a_moved_tag_does_not_change_the_lock(
    environments: EnvironmentStore, repositories: Any, small: Small
) -> None:
    request = small("good")
    lock = environments.lock(request)
    repository = repositories.repository("good")
    first = repositories.git(repository, "rev-parse", "v0.1.0")
    own = lock.model_package(request)
    assert own is not None
    assert (own.name, own.version, own.commit) == ("good-model", "0.1.0", first)

    (repository / "CHANGES").write_text("moved")
    second = repositories.commit(repository, "v0.1.0")
    moved = environments.lock(request)
    assert moved.model_package(request).commit == second  # type: ignore[union-attr]
    assert environment_key(moved, request) != environment_key(lock, request)
    assert Lock.parse(lock.text) == lock


def test_every_package_of_a_real_lock_has_hashes_or_a_commit(
    environments: EnvironmentStore, repositories: Any
) -> None:
    request = request_for(repositories.requirement("behaviours"), None, allow_local=True)
    lock = environments.lock(request)
    names = {package.name for package in lock.packages}
    assert {"behaviours", "dissmodel", "numpy", "geopandas"} <= names
    for package in lock.packages:
        assert package.commit or package.hashes, package
        assert all(len(digest) == 64 for digest in package.hashes)
    assert lock.find("DisSModel") is lock.find("dissmodel")
    assert tomllib.loads(lock.text)["lock-version"] == "1.0"
    # nothing of the machine or of the time is in it: the same request gives the same text
    assert environments.lock(request).text == lock.text


def test_the_models_own_package_is_the_one_at_the_specs_address_not_the_first_with_a_commit(
    environments: EnvironmentStore, small: Small
) -> None:
    request = small("several-modules")  # "dissmodel", also from git, sorts before it
    lock = environments.lock(request)
    assert [p.name for p in lock.packages if p.commit] == ["dissmodel", "several-modules"]
    assert lock.model_package(request).name == "several-modules"  # type: ignore[union-attr]


def test_the_specs_constraint_on_dissmodel_takes_part(environments: EnvironmentStore) -> None:
    request = request_for(None, ">=0.6,<0.6.3", allow_local=False)
    version = environments.lock(request).find("dissmodel").version  # type: ignore[union-attr]
    assert version in ("0.6.0", "0.6.1", "0.6.2")


def test_the_built_in_executors_are_locked_with_their_own_dependencies(
    environments: EnvironmentStore,
) -> None:
    request = request_for(None, None, allow_local=False)
    lock = environments.lock(request)
    assert lock.find("rasterio") is not None
    assert lock.model_package(request) is None  # it is installed from its source tree
    assert request.python == ".".join(platform.python_version_tuple()[:2])


def test_another_python_gives_another_key(environments: EnvironmentStore, small: Small) -> None:
    request = small("good")
    lock = environments.lock(request)
    assert environment_key(lock, request) != environment_key(lock, replace(request, python="3.12"))


@pytest.mark.parametrize("constraint", ["0.6.0", "==0.6.0", "dissmodel==0.6.0"])
def test_a_plain_version_of_dissmodel_is_exact(
    environments: EnvironmentStore, constraint: str
) -> None:
    request = request_for(None, constraint, allow_local=False)
    assert request.requirements == ("dissmodel==0.6.0",)
