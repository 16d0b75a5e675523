"""Environments with dissmodel as it was published, builds side by side, builds that are killed."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.lock import Lock, environment_key
from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.store import Environment, EnvironmentStore, clean_environment
from dissmodel_platform.errors import BuildFailed, BuildInterrupted
from tests.acceptance.support import processes_below
from tests.processes import wait_until

Small = Callable[..., PackageRequest]
Good = tuple[Lock, PackageRequest, Environment, bool]
PATIENCE_SECONDS = 60.0

# Refuses what would leave the machine, then imports what the arguments name.
IMPORT_WITHOUT_NETWORK = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise AssertionError(f"{event} {arguments}")
sys.addaudithook(refuse)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
from dissmodel.executor import ExecutorRegistry
print(*ExecutorRegistry.list())
"""

# Acquires one environment; says when it begins and when it has it.
ACQUIRE = """
import pickle, sys
from pathlib import Path
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls
lock, request = pickle.loads(Path(sys.argv[2]).read_bytes())
store = EnvironmentStore(Path(sys.argv[1]), HARNESS, Workshop(inspect_walls(), Bounds(600)))
print("begins", flush=True)
store.acquire(lock, request)
print("has it", flush=True)
"""


@pytest.fixture(scope="module")
def good(repositories: Any, environments: EnvironmentStore) -> Good:
    """Make the environment of ``good`` with dissmodel as it was published."""
    request = request_for(repositories.requirement("good"), None, allow_local=True)
    lock = environments.lock(request)
    acquired = environments.acquire(lock, request)
    return lock, request, acquired.environment, acquired.built


@pytest.fixture(autouse=True)
def no_command_is_left(packages_directory: Path, tmp_path: Path) -> Iterator[None]:
    yield
    for directory in (packages_directory, tmp_path):
        wait_until(lambda at=directory: not working_below(at), "the last command has ended")


def test_the_lock_holds_the_commit_of_a_tag_and_hashes_of_all_the_rest(
    good: Good, repositories: Any
) -> None:
    lock, request, environment, _ = good
    own = lock.model_package(request)
    assert own is not None
    repository = repositories.repository("good")
    assert own.commit == repositories.git(repository, "rev-parse", "v0.1.0")
    assert own.source == repository.as_uri()
    assert lock.find("dissmodel") is not None
    assert all(package.hashes for package in lock.packages if package is not own)
    assert (environment.directory / "pylock.toml").read_text() == lock.text


def test_what_is_there_is_not_built_again(good: Good, environments: EnvironmentStore) -> None:
    lock, request, environment, was_built = good
    assert was_built
    assert environments.has(lock, request)
    again = environments.acquire(lock, request)
    assert not again.built
    assert again.environment == environment


def test_the_interpreter_imports_the_executor_without_the_network(
    good: Good, tmp_path: Path
) -> None:
    _, _, environment, _ = good
    assert environment.distribution == "good-model"
    done = subprocess.run(
        [environment.python, "-c", IMPORT_WITHOUT_NETWORK, "good_model"],
        env=clean_environment(environment, str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout.split()


def test_everything_has_bytecode_that_need_not_be_checked(good: Good) -> None:
    _, _, environment, _ = good
    listing = "import sys; print(*sys.path, sep='\\n')"
    found = subprocess.run(
        [environment.python, "-c", listing], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    sites = [Path(line) for line in found if line.endswith("site-packages")]
    assert len(sites) == 2, "the model's own packages, and its libraries"
    for module in ("good_model/__init__.py", "dissmodel/__init__.py", "numpy/__init__.py"):
        [source] = [site / module for site in sites if (site / module).is_file()]
        compiled = Path(cache_from_source(str(source)))
        flags = int.from_bytes(compiled.read_bytes()[4:8], "little")
        assert flags == 0b01, "named by its source's hash, which is not looked at"


def test_two_packages_are_built_at_the_same_time(
    small: Small, store: EnvironmentStore, tmp_path: Path
) -> None:
    requests = [small("slow-build"), replace(small("slow-build"), python="3.12")]

    def both_build() -> bool:
        return list(processes_below(tmp_path).values()).count("sleep 600") == 2

    with ThreadPoolExecutor(2) as threads:
        locking = [threads.submit(store.lock, request) for request in requests]
        wait_until(both_build, "both are building")
        store.interrupt()
        for each in locking:
            assert isinstance(each.exception(PATIENCE_SECONDS), BuildInterrupted)


@pytest.mark.parametrize("attempt", range(6))
def test_a_build_that_was_killed_at_any_moment_passes_for_an_environment_only_if_it_is_whole(
    attempt: int,
    small: Small,
    store: EnvironmentStore,
    make_store: Callable[..., EnvironmentStore],
    tmp_path: Path,
) -> None:
    request = small("good")
    lock = store.lock(request)
    parcel = tmp_path / "wanted"
    parcel.write_bytes(pickle.dumps((lock, request)))
    # the moments are drawn within the time that a build takes, which is a second or two
    moment = random.Random(attempt).uniform(0.0, 2.0)
    with subprocess.Popen(
        [sys.executable, "-c", ACQUIRE, str(tmp_path / "packages"), str(parcel)],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # what it cannot remove goes with the test
        stdout=subprocess.PIPE,
        text=True,
    ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "begins\n"
        time.sleep(moment)
        builder.kill()
        has_it = "has it" in builder.stdout.read()

    key = environment_key(lock, request)
    directory = tmp_path / "packages" / "environments" / key
    was_published = directory.exists()
    assert was_published or not has_it
    assert store.has(lock, request) is was_published
    acquired = store.acquire(lock, request)
    assert acquired.built is not was_published
    report, output = store.inspect(acquired.environment)
    assert not report["error"], output
    assert report["registered"] == ["good"]
    make_store()  # whoever opens the directory sweeps up
    assert not list((tmp_path / "packages" / "scratch").iterdir())


def test_a_build_that_takes_too_long_is_ended_with_all_that_it_started(
    small: Small, make_store: Callable[..., EnvironmentStore], tmp_path: Path
) -> None:
    store = make_store(timeout_seconds=5)
    with ThreadPoolExecutor(1) as thread:
        locking = thread.submit(store.lock, small("slow-build"))
        wait_until(lambda: "sleep 600" in processes_below(tmp_path).values(), "it is building")
        with pytest.raises(BuildFailed, match=r"did not end within 5 s; raise PLATFORM_BUILD_"):
            locking.result()
    wait_until(lambda: not processes_below(tmp_path), "the build's processes have ended")
    assert not list((tmp_path / "packages" / "scratch").iterdir())


def working_below(directory: Path) -> list[int]:
    """Find the processes whose working directory is below one."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink().is_relative_to(directory):
                found.append(int(link.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found
