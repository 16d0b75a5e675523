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
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.lock import Lock, environment_key, resolve
from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.store import Environment, EnvironmentStore, clean_environment
from dissmodel_platform.errors import BuildFailed
from tests.processes import is_running, wait_until

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
from dissmodel_platform.execution.paths import HARNESS
lock, request = pickle.loads(Path(sys.argv[2]).read_bytes())
store = EnvironmentStore(Path(sys.argv[1]), HARNESS, build_timeout_seconds=600)
print("begins", flush=True)
store.acquire(lock, request)
print("has it", flush=True)
"""

# A build that waits until its partner's build has begun as well.
RENDEZVOUS = """
import time
from pathlib import Path
from hatchling import build

def build_wheel(*arguments, **options):
    Path({mine!r}).touch()
    deadline = time.monotonic() + {patience}
    while not Path({other!r}).exists():
        assert time.monotonic() < deadline, "the partner's build did not begin"
        time.sleep(0.02)
    return build.build_wheel(*arguments, **options)
"""


@pytest.fixture(scope="module")
def good(repositories: Any, environments: EnvironmentStore) -> Good:
    """Make the environment of ``good`` with dissmodel as it was published."""
    request = request_for(repositories.requirement("good"), None, allow_local=True)
    lock = resolve(environments.uv, request)
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


def test_bytecode_is_there_after_the_build(good: Good) -> None:
    _, _, environment, _ = good
    [packages] = environment.directory.glob("lib/python3*/site-packages")
    tag = sys.implementation.cache_tag
    for module in ("good_model/__init__.py", "dissmodel/__init__.py", "numpy/__init__.py"):
        source = packages / module
        assert source.is_file()
        assert (source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc").is_file()


def test_two_environments_are_built_at_the_same_time(
    repositories: Any, small: Small, store: EnvironmentStore, tmp_path: Path
) -> None:
    library = small("good").requirements[1]
    wanted = []
    for mine, other in (("left", "right"), ("right", "left")):
        repository = tmp_path / "sources" / mine
        module = repository / f"{mine}_model"
        module.mkdir(parents=True)
        (module / "__init__.py").write_text(
            f"from dissmodel.executor import ModelExecutor\n"
            f"class Model(ModelExecutor):\n    name = {mine!r}\n"
        )
        (repository / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "backend"\n'
            f'backend-path = ["."]\n[project]\nname = "{mine}-model"\nversion = "0.1.0"\n'
        )
        (repository / "backend.py").write_text(
            RENDEZVOUS.format(
                mine=str(tmp_path / mine), other=str(tmp_path / other), patience=PATIENCE_SECONDS
            )
        )
        repositories.git(repository, "init", "--quiet", "--initial-branch=main")
        repositories.commit(repository, "v0.1.0")
        package = f"git+{repository.as_uri()}@v0.1.0"
        request = replace(small("good"), package=package, requirements=(package, library))
        wanted.append((resolve(store.uv, request), request))
    with ThreadPoolExecutor(2) as threads:
        builds = [threads.submit(store.acquire, *each) for each in wanted]
        left, right = [build.result() for build in builds]
    assert left.built
    assert right.built
    assert left.environment.key != right.environment.key


@pytest.mark.parametrize("attempt", range(6))
def test_a_build_that_was_killed_at_any_moment_passes_for_an_environment_only_if_it_is_whole(
    attempt: int, small: Small, store: EnvironmentStore, tmp_path: Path
) -> None:
    request = small("good")
    lock = resolve(store.uv, request)
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


def test_a_build_that_takes_too_long_is_ended_with_all_that_it_started(
    small: Small, store: EnvironmentStore, packages_directory: Path
) -> None:
    request = small("slow-build")
    lock = resolve(store.uv, request)
    checkouts = packages_directory / "cache" / "git-v2" / "checkouts"
    for stale in checkouts.glob("*/*/building"):
        stale.unlink()
    store.uv.commands.timeout_seconds = 5
    with pytest.raises(BuildFailed, match=r"did not end within 5 s; raise PLATFORM_BUILD_"):
        store.acquire(lock, request)
    [begun] = checkouts.glob("*/*/building")
    started = [int(pid) for pid in begun.read_text().split()]
    wait_until(lambda: not any(map(is_running, started)), "the build's processes have ended")
    assert not store.has(lock, request)


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
