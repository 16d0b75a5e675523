"""Environments are bounded: the one used longest ago goes first, and none that is in use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.collection import YOUNG_SECONDS
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.leases import Lease
from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.seals import MARKER
from dissmodel_platform.environments.store import Environment, EnvironmentStore
from dissmodel_platform.environments.survey import Survey, in_use, installed
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls
from tests.processes import wait_until

Locked = tuple[PackageRequest, Lock]
EVERYTHING = 1


@pytest.fixture(scope="module")
def prepared(
    repositories: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, Locked]]]:
    """Make a store with the environments of two models on the same libraries."""
    directory = tmp_path_factory.mktemp("collection") / "packages"
    store = EnvironmentStore(directory, HARNESS, Workshop(inspect_walls(), Bounds(120)))
    library = f"dissmodel @ {repositories.requirement('stand-in-dissmodel')}"
    models = {}
    for name in ("good", "several-modules"):
        package = repositories.requirement(name)
        request = PackageRequest(package, (package, library), None, "", "3.11")
        models[name] = (request, store.lock(request))
        store.acquire(models[name][1], request)
    yield directory, models
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def store(prepared: Any, tmp_path: Path) -> EnvironmentStore:
    """Open a copy of that store, links between its files kept."""
    directory = tmp_path / "packages"
    subprocess.run(["cp", "-a", str(prepared[0]), str(directory)], check=True)
    return EnvironmentStore(directory, HARNESS, Workshop(inspect_walls(), Bounds(120)))


@pytest.fixture
def locked(prepared: Any) -> dict[str, Locked]:
    models: dict[str, Locked] = prepared[1]
    return models


def directories(store: EnvironmentStore) -> dict[str, Path]:
    """Return the directory of each model's environment."""
    return {str(e.marker["distribution"]): e.directory for e in installed(store.layout)}


def age(directory: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(directory / MARKER, (then, then))


def age_all(store: EnvironmentStore) -> None:
    for number, directory in enumerate(sorted(store.layout.environments.iterdir())):
        age(directory, 2 * YOUNG_SECONDS + number)
    for directory in store.layout.wheels.iterdir():
        os.utime(directory, (0, 0))


def left(store: EnvironmentStore) -> set[str]:
    places = (store.layout.environments, store.layout.libraries, store.layout.wheels)
    found = {path.name for place in places for path in place.iterdir()}
    return found | {p.name for p in store.layout.bytecode.iterdir() if p.name != "scratch"}


def test_the_one_used_longest_ago_goes_first_and_what_others_use_stays(
    store: EnvironmentStore,
) -> None:
    found = directories(store)
    for directory in found.values():
        (directory / "ballast").write_bytes(bytes(5_000_000))
    age(found["good-model"], 1_000)
    age(found["several-modules"], 2_000)
    before = Survey.take(store.layout).total_bytes
    done = store.collect(before - 1)
    assert done is not None
    assert done.environments == (found["several-modules"].name,)
    assert (done.before_bytes, done.after_bytes) == (before, Survey.take(store.layout).total_bytes)
    assert done.after_bytes < before - 1
    [kept] = installed(store.layout)
    assert kept.directory == found["good-model"]
    assert all(part.is_dir() for part in kept.parts)
    bytecode = {path.name for path in store.layout.bytecode.iterdir()} - {"scratch"}
    assert len(bytecode) == len(kept.wheels), "that of the other model's wheel is gone"
    cached = [path.name for path in store.layout.cache.rglob("*.dist-info")]
    assert any(name.startswith("good_model") for name in cached)
    assert not any(name.startswith("several_modules") for name in cached)


def test_below_the_limit_and_without_one_nothing_is_removed(store: EnvironmentStore) -> None:
    age_all(store)
    before = left(store)
    assert store.collect(0) is None
    done = store.collect(Survey.take(store.layout).total_bytes)
    assert done is not None
    assert done.environments == ()
    assert left(store) == before


def test_what_is_in_use_or_was_used_just_now_stays(store: EnvironmentStore, prepared: Any) -> None:
    found = directories(store)
    age(found["good-model"], YOUNG_SECONDS / 2)
    age(found["several-modules"], 2 * YOUNG_SECONDS)
    key = found["several-modules"].name
    with Lease.shared(store.layout.lease(key)):
        assert in_use(store.layout, key)
        done = store.collect(EVERYTHING)
    assert done is not None
    assert done.environments == ()
    assert directories(store) == found
    assert not in_use(store.layout, key)
    done = store.collect(EVERYTHING)
    assert done is not None
    assert done.environments == (key,)


def test_all_of_a_store_can_go_and_what_is_left_of_it_is_next_to_nothing(
    store: EnvironmentStore,
) -> None:
    age_all(store)
    done = store.collect(EVERYTHING)
    assert done is not None
    assert len(done.environments) == 2
    assert left(store) == set()
    assert not list(store.layout.scratch.iterdir())
    assert not list(store.layout.cache.rglob("*.py"))


def test_nothing_that_may_be_named_soon_goes_while_somebody_builds(
    store: EnvironmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dissmodel_platform.environments.collection._PATIENCE_SECONDS", 0.2)
    age_all(store)
    with Lease.shared(store.layout.building):
        done = store.collect(EVERYTHING)
    assert done is not None
    assert len(done.environments) == 2
    assert list(store.layout.libraries.iterdir())
    store.collect(EVERYTHING)
    assert left(store) == set()


def test_a_wheel_waits_for_the_build_that_it_was_made_for(
    store: EnvironmentStore, locked: dict[str, Locked]
) -> None:
    age_all(store)
    wheel = locked["good"][1].built[0]
    assert store.has_wheel(wheel)
    store.collect(EVERYTHING)
    assert left(store) == {wheel.sha256}


def test_one_process_collects_at_a_time(store: EnvironmentStore) -> None:
    age_all(store)
    with Lease.shared(store.layout.collecting):
        assert store.collect(EVERYTHING) is None
    assert len(directories(store)) == 2


def test_an_environment_that_was_collected_is_built_again(
    store: EnvironmentStore, locked: dict[str, Locked]
) -> None:
    request, lock = locked["good"]
    first = store.acquire(lock, request)
    environment = first.environment
    age(environment.directory, 3_600)
    assert not store.acquire(lock, request).built
    assert time.time() - (environment.directory / MARKER).stat().st_mtime < 60, "it was used"
    age(environment.directory, 30)
    store.acquire(lock, request)
    assert time.time() - (environment.directory / MARKER).stat().st_mtime >= 30, "as was known"
    age(environment.directory, 3_600)
    store.collect(EVERYTHING)
    assert not environment.directory.exists()
    assert store.acquire(lock, request).built


_KILLED = """
import os, signal, sys
from pathlib import Path
from dissmodel_platform.environments import scratch
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls
store = EnvironmentStore(Path(sys.argv[1]), HARNESS, Workshop(inspect_walls(), Bounds(120)))
scratch.remove_tree = lambda _: os.kill(os.getpid(), signal.SIGKILL)
store.collect(1)
"""


def test_one_who_is_killed_while_removing_leaves_no_half_environment(
    store: EnvironmentStore, make_again: Callable[[], EnvironmentStore]
) -> None:
    age_all(store)
    found = set(directories(store).values())
    command = [sys.executable, "-c", _KILLED, str(store.layout.directory)]
    assert subprocess.run(command, check=False).returncode == -9
    kept = set(directories(store).values())
    assert len(found - kept) == 1, "one had been moved away"
    assert all((path / "bin" / "python").exists() for path in kept)
    make_again()
    assert not list(store.layout.scratch.iterdir()), "the next process deletes what was moved"


@pytest.fixture
def make_again(store: EnvironmentStore) -> Callable[[], EnvironmentStore]:
    def make() -> EnvironmentStore:
        workshop = Workshop(inspect_walls(), Bounds(120))
        return EnvironmentStore(store.layout.directory, HARNESS, workshop)

    return make


def test_a_lease_ends_with_its_process(store: EnvironmentStore, tmp_path: Path) -> None:
    environment = Environment(
        key=directories(store)["good-model"].name,  # type: ignore[arg-type]
        directory=tmp_path,
        distribution="",
        lease_file=tmp_path / "x.use",
    )
    program = (
        "import sys, time; from pathlib import Path;"
        "from dissmodel_platform.environments.leases import Lease;"
        "lease = Lease.shared(Path(sys.argv[1])); print('has it', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(environment.lease_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with environment.use():
            assert Lease.exclusive(environment.lease_file) is None
        assert Lease.exclusive(environment.lease_file) is None
        process.kill()
    lease: list[Lease | None] = []
    wait_until(lambda: lease.append(Lease.exclusive(environment.lease_file)) or lease[-1], "ended")
    lease[-1].release()  # type: ignore[union-attr]


def test_each_file_counts_once(store: EnvironmentStore) -> None:
    done = subprocess.run(
        ["du", "-s", "--block-size=1", *map(str, (
            store.layout.environments, store.layout.libraries, store.layout.bytecode,
            store.layout.wheels, store.layout.cache,
        ))],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    told = sum(int(line.split()[0]) for line in done.stdout.splitlines())
    survey = Survey.take(store.layout)
    assert 0 <= told - survey.total_bytes < 100_000, "but for the directories on top"
    environments = installed(store.layout)
    for entry in environments:
        assert 0 < survey.own_bytes(entry, environments) < survey.size_bytes(entry.parts)
