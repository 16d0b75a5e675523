"""Where packages come from: an index, addresses with hashes; versions that live side by side."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.store import Environment, EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.errors import (
    BuildFailed,
    EnvironmentBuildError,
    PackageNotFound,
    PackageUnreachable,
    PackageUnsatisfiable,
    VersionNotFound,
)
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.proxy import Destinations
from dissmodel_platform.sandbox.walls import inspect_walls
from tests.integration.environments.index import LocalIndex, executor, serving


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalIndex]:
    with serving(LocalIndex()) as served:
        monkeypatch.setenv("UV_DEFAULT_INDEX", served.url)
        served.add_stand_in()
        yield served


@pytest.fixture
def store(tmp_path: Path, index: LocalIndex) -> EnvironmentStore:
    """A store whose network leads to the index alone."""
    destinations = Destinations(hosts=("127.0.0.1:*",), any_public=False)
    workshop = Workshop(inspect_walls(), Bounds(120), destinations)
    return EnvironmentStore(tmp_path / "packages", HARNESS, workshop)


def asked(package: str, dissmodel: str | None = None) -> PackageRequest:
    return request_for(package, dissmodel, allow_local=False)


def version(store: EnvironmentStore, request: PackageRequest, name: str) -> str:
    package = store.lock(request).find(name)
    assert package is not None
    return package.version


def says(environment: Environment, code: str) -> str:
    command = [str(environment.python), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("package", "expected"),
    [("tide==1.0", "1.0"), ("tide", "2.0"), ("tide>=1,<2", "1.1"), ("tide~=1.0", "1.1")],
)
def test_a_name_is_resolved_to_a_version_of_the_index(
    store: EnvironmentStore, index: LocalIndex, package: str, expected: str
) -> None:
    for each in ("1.0", "1.1", "2.0"):
        index.add_wheel("tide", each, {"tide.py": executor("tide")})
    assert version(store, asked(package), "tide") == expected


def test_a_release_that_comes_later_changes_no_lock(
    store: EnvironmentStore, index: LocalIndex
) -> None:
    index.add_wheel("tide", "1.0", {"tide.py": executor("tide", "SEA = 'old'")})
    request = asked("tide")
    lock = store.lock(request)
    index.add_wheel("tide", "1.1", {"tide.py": executor("tide", "SEA = 'new'")})
    environment = store.acquire(lock, request).environment
    assert says(environment, "import tide; print(tide.SEA)") == "old"


def test_extras_and_the_librarys_version_take_part(
    store: EnvironmentStore, index: LocalIndex
) -> None:
    index.add_stand_in("0.5.0")
    index.add_wheel("plots", "3.0", {"plots.py": ""})
    index.add_wheel(
        "tide", "1.0", {"tide.py": executor("tide")}, ['plots; extra == "maps"', "dissmodel"]
    )
    assert store.lock(asked("tide")).find("plots") is None
    assert version(store, asked("tide[maps]"), "plots") == "3.0"
    assert version(store, asked("tide", "<0.6"), "dissmodel") == "0.5.0"
    assert version(store, asked("tide"), "dissmodel") == "0.6.0"


def test_a_wheel_at_an_address_is_taken_with_its_hash(
    store: EnvironmentStore, index: LocalIndex
) -> None:
    address = index.add_wheel("tide", "1.0", {"tide.py": executor("tide")})
    request = asked(f"tide @ {address}")
    lock = store.lock(request)
    [wheel] = lock.find("tide").wheels  # type: ignore[union-attr]
    assert wheel == tuple(address.split("#sha256="))
    environment = store.acquire(lock, request).environment
    assert says(environment, "import tide; print('there')") == "there"
    wrong = address[:-1] + ("0" if address[-1] != "0" else "1")
    request = asked(f"tide @ {wrong}")
    with pytest.raises(BuildFailed, match="its hash differs"):
        store.acquire(store.lock(request), request)


def test_a_source_distribution_becomes_a_wheel(store: EnvironmentStore, index: LocalIndex) -> None:
    index.add_sdist("tide", "1.0", {"tide.py": executor("tide", "SEA = 'built'")})
    request = asked("tide==1.0")
    lock = store.lock(request)
    [built] = lock.built
    assert built.file == "tide-1.0-py3-none-any.whl"
    assert store.built_wheel(built).is_file()
    environment = store.acquire(lock, request).environment
    assert says(environment, "import tide; print(tide.SEA)") == "built"


def test_what_is_not_the_file_that_was_locked_is_not_installed(
    store: EnvironmentStore, index: LocalIndex
) -> None:
    index.add_wheel("tide", "1.0", {"tide.py": executor("tide")})
    request = asked("tide==1.0")
    lock = store.lock(request)
    locked = dict(index.hashes)
    index.add_wheel("tide", "1.0", {"tide.py": executor("tide", "import os")})
    index.hashes.update(locked)
    with pytest.raises(BuildFailed, match=r"a file of tide==1\.0 is not .*its hash differs"):
        store.acquire(lock, request)
    assert not store.has(lock, request)


def test_models_that_cannot_live_together_live_side_by_side(
    store: EnvironmentStore, index: LocalIndex
) -> None:
    for each in ("1.0", "2.0"):
        index.add_wheel("grid", each, {"grid.py": f"VERSION = {each!r}\n"})
    code = "import grid"
    index.add_wheel("coast", "1.0", {"coast.py": executor("coast", code)}, ["grid<2"])
    index.add_wheel("coast", "2.0", {"coast.py": executor("coast", code)}, ["grid>=2"])
    index.add_wheel("river", "1.0", {"river.py": executor("river", code)}, ["grid>=2"])
    requests = [asked("coast==1.0"), asked("coast==2.0"), asked("river")]
    environments = [store.acquire(store.lock(each), each).environment for each in requests]
    found = [says(each, "import grid; print(grid.VERSION)") for each in environments]
    assert found == ["1.0", "2.0", "2.0"]
    assert len({each.key for each in environments}) == 3


def test_what_the_index_cannot_give_is_told_apart(
    store: EnvironmentStore, index: LocalIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add_wheel("tide", "1.0", {"tide.py": executor("tide")}, ["dissmodel<0.1"])
    for package, kind in (
        ("tyde", PackageNotFound),
        ("tide==9.0", VersionNotFound),
        ("tide", PackageUnsatisfiable),
    ):
        with pytest.raises(EnvironmentBuildError) as failed:
            store.lock(asked(package))
        assert type(failed.value) is kind, failed.value
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(PackageUnreachable):
        store.lock(asked("tide"))


def test_a_broken_wheel_is_the_fault_of_its_package(
    store: EnvironmentStore, index: LocalIndex
) -> None:
    file = "tide-1.0-py3-none-any.whl"
    index.add_wheel("tide", "1.0", {"tide.py": executor("tide")})
    index.files[file] = index.files[file][:200]
    index.hashes[file] = hashlib.sha256(index.files[file]).hexdigest()
    with pytest.raises(BuildFailed, match=r"the file of tide==1\.0 in the index is broken"):
        store.lock(asked("tide==1.0"))


def test_a_host_that_is_not_allowed_is_named(store: EnvironmentStore, index: LocalIndex) -> None:
    index.add_wheel("tide", "1.0", {"tide.py": executor("tide")})
    address = f"http://localhost:{index.port}/files/tide-1.0-py3-none-any.whl"
    with pytest.raises(EnvironmentBuildError) as failed:
        store.lock(asked(f"tide @ {address}"))
    assert "localhost" in failed.value.output_tail
    assert "not among the package sources allowed here" in failed.value.output_tail
