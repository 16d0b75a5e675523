"""Each way in which a package cannot be made runnable is one sentence of its own kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.errors import (
    BuildFailed,
    ContractCheckFailed,
    EnvironmentBuildError,
    ExecutorModuleMissing,
    PackageNotFound,
    PackageUnsatisfiable,
    PythonMismatch,
    VersionNotFound,
)
from tests.acceptance.support import processes_below
from tests.processes import wait_until

Small = Callable[..., PackageRequest]


def build(store: EnvironmentStore, request: PackageRequest) -> EnvironmentBuildError:
    """Resolve and build what cannot be; returns why."""
    with pytest.raises(EnvironmentBuildError) as failed:
        store.acquire(store.lock(request), request)
    sentence = str(failed.value)
    assert request.label in sentence, "the package is named"
    assert "\n" not in sentence
    assert left_behind(store) == []
    return failed.value


def left_behind(store: EnvironmentStore) -> list[Path]:
    return list(store._environments.iterdir())


@pytest.mark.parametrize(
    ("package", "kind", "cause"),
    [
        (
            "no-such-package-of-dissmodel-platform==1.0",
            PackageNotFound,
            "no-such-package-of-dissmodel-platform is not found in the package index",
        ),
        ("numpy==99.0", VersionNotFound, "there is no such version (numpy==99.0)"),
        ("numpy>=99,<100", VersionNotFound, "there is no such version (numpy>=99,<100)"),
        ("geopandas<0.5", PackageUnsatisfiable, "dissmodel"),
    ],
)
def test_what_an_index_does_not_have(
    environments: EnvironmentStore, package: str, kind: type[EnvironmentBuildError], cause: str
) -> None:
    request = request_for(package, ">=0.6", allow_local=False)
    with pytest.raises(EnvironmentBuildError) as failed:
        environments.lock(request)
    assert type(failed.value) is kind
    assert repr(package) in str(failed.value)
    assert cause in str(failed.value)


@pytest.mark.parametrize(
    ("name", "kind", "cause"),
    [
        ("wrong-python", PythonMismatch, "no matching Python"),
        (
            "needs-what-is-not-there",
            PackageNotFound,
            "no-such-package-of-dissmodel-platform is not found",
        ),
        ("contradictory", PackageUnsatisfiable, "numpy"),
        ("syntax-error-in-setup", BuildFailed, "SyntaxError: '(' was never closed"),
        ("build-fails", BuildFailed, "RuntimeError: the GDAL headers are not installed"),
        ("no-project", PackageNotFound, "neither `pyproject.toml` nor `setup.py` are present"),
        (
            "import-fails",
            ExecutorModuleMissing,
            "ModuleNotFoundError: No module named 'a_library_that_nobody_declared'",
        ),
        ("ends-at-import", BuildFailed, "ended the interpreter (exit code 9)"),
    ],
)
def test_what_a_package_does_wrong(
    store: EnvironmentStore,
    small: Small,
    name: str,
    kind: type[EnvironmentBuildError],
    cause: str,
) -> None:
    error = build(store, small(name))
    assert type(error) is kind, error
    assert cause in str(error)
    assert error.output_tail


def test_the_tools_own_words_are_kept(store: EnvironmentStore, small: Small) -> None:
    assert "Traceback" in build(store, small("build-fails")).output_tail
    assert "about to end" in build(store, small("ends-at-import")).output_tail


@pytest.mark.parametrize(
    ("change", "kind", "cause"),
    [
        (("@v0.1.0", "@v9.9"), VersionNotFound, "no such version (tag, branch or commit)"),
        (("@v0.1.0", "@" + "0" * 40), VersionNotFound, "no such version"),
        (("/good@", "/nothing@"), PackageNotFound, "its git repository is not found"),
        (("@v0.1.0", "@v0.1.0#subdirectory=x"), PackageNotFound, "has no subdirectory `x`"),
    ],
)
def test_what_a_repository_does_not_have(
    environments: EnvironmentStore,
    repositories: Any,
    change: tuple[str, str],
    kind: type[EnvironmentBuildError],
    cause: str,
) -> None:
    package = repositories.requirement("good").replace(*change)
    with pytest.raises(EnvironmentBuildError) as failed:
        environments.lock(request_for(package, None, allow_local=True))
    assert type(failed.value) is kind, failed.value
    assert cause in str(failed.value)


def test_a_package_that_bears_another_name_is_told_apart(
    environments: EnvironmentStore, repositories: Any
) -> None:
    request = request_for(f"another @ {repositories.requirement('good')}", None, allow_local=True)
    with pytest.raises(BuildFailed, match="does not match given name `another`"):
        environments.lock(request)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "file:///nowhere"])
def test_a_local_path_without_a_project_is_not_found(
    environments: EnvironmentStore, path: str
) -> None:
    request = request_for(path, None, allow_local=True)
    with pytest.raises(PackageNotFound, match="there is no pyproject"):
        environments.lock(request)


def test_an_executor_that_breaks_dissmodels_contract_names_the_check(
    environments: EnvironmentStore, repositories: Any
) -> None:
    request = request_for(repositories.requirement("contract-broken"), None, allow_local=True)
    lock = environments.lock(request)
    with pytest.raises(ContractCheckFailed) as failed:
        environments.acquire(lock, request)
    assert "'contract-broken' fails dissmodel's contract" in str(failed.value)
    assert "run() must accept exactly two parameters" in str(failed.value)
    assert not environments.has(lock, request)


def test_an_import_that_does_not_end_is_ended_with_its_children(
    make_store: Callable[..., EnvironmentStore], small: Small, tmp_path: Path
) -> None:
    patient, hasty = make_store(), make_store(timeout_seconds=3.0)
    request = small("hangs-at-import")
    lock = patient.lock(request)
    with pytest.raises(BuildFailed, match="importing it did not end within 3 s") as failed:
        hasty.acquire(lock, request)
    assert failed.value.output_tail.startswith("started ")
    wait_until(lambda: not processes_below(tmp_path), "its processes have ended")
    assert left_behind(hasty) == []


def test_a_build_sees_no_secret_of_the_platform(
    store: EnvironmentStore, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "API_KEYS": "a-secret",
        "DATABASE_URL": "postgresql://user:a-secret@host/db",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "GITHUB_TOKEN": "a-secret",
        "PLATFORM_HOME": "/a-secret",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    output = build(store, small("tells-its-environment")).output_tail
    seen = json.loads("{" + output.rpartition("VARIABLES {")[2].splitlines()[0])
    assert not secrets.keys() & seen.keys()
    assert "a-secret" not in json.dumps(seen)
    assert seen["GIT_TERMINAL_PROMPT"] == "0"
