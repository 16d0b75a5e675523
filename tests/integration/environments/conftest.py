"""Environments with a stand-in for dissmodel, which install in no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls


@pytest.fixture
def small(repositories: Any) -> Callable[[str], PackageRequest]:
    """Make the request of a package on the stand-in; ``distribution`` as the spec would name it."""

    def request(name: str, distribution: str = "") -> PackageRequest:
        library = f"dissmodel @ {repositories.requirement('stand-in-dissmodel')}"
        package = repositories.requirement(name)
        return PackageRequest(package, (package, library), None, distribution, "3.11")

    return request


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., EnvironmentStore]:
    """Make a store of this test's own."""

    def make(timeout_seconds: float = 120.0) -> EnvironmentStore:
        workshop = Workshop(inspect_walls(), Bounds(timeout_seconds))
        return EnvironmentStore(tmp_path / "packages", HARNESS, workshop)

    return make


@pytest.fixture
def store(make_store: Callable[..., EnvironmentStore]) -> EnvironmentStore:
    return make_store()
