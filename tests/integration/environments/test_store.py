"""The store of environments: built once, whole or not at all, whoever wants them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.lock import Lock, environment_key
from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.seals import MARKER
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.errors import BuildInterrupted
from tests.acceptance.support import processes_below
from tests.processes import wait_until

Small = Callable[..., PackageRequest]
PATIENCE_SECONDS = 60.0


def entries(store: EnvironmentStore) -> list[str]:
    return sorted(path.name for path in store._environments.iterdir())


@pytest.fixture
def request_(small: Small) -> PackageRequest:
    return small("good")


@pytest.fixture
def lock(store: EnvironmentStore, request_: PackageRequest) -> Lock:
    return store.lock(request_)


def test_the_second_acquire_finds_what_the_first_has_built(
    store: EnvironmentStore, make_store: Callable[..., EnvironmentStore], request_: Any, lock: Lock
) -> None:
    assert not store.has(lock, request_)
    first = store.acquire(lock, request_)
    assert first.built
    assert first.environment.distribution == "good-model"
    assert json.loads((first.environment.directory / MARKER).read_text())["key"] == (
        first.environment.key
    )
    for later in (store, make_store()):  # also after a restart
        assert later.has(lock, request_)
        found = later.acquire(lock, request_)
        assert (found.built, found.environment) == (False, first.environment)
        assert found.seconds < 0.5
    assert entries(store) == [first.environment.key]


def test_an_environment_has_its_own_python_and_none_of_the_platforms_packages(
    store: EnvironmentStore, request_: Any, lock: Lock
) -> None:
    environment = store.acquire(lock, request_).environment
    program = (
        "import sys, good_model, importlib.util as u;"
        "print(sys.prefix, u.find_spec('procrastinate'), good_model.__cached__)"
    )
    done = subprocess.run(
        [str(environment.python), "-c", program], capture_output=True, text=True, check=True
    )
    prefix, spec, cached = done.stdout.split()
    assert Path(prefix) == environment.directory
    assert spec == "None"
    assert Path(cached).is_file(), "bytecode is compiled when it is built"


def test_two_threads_that_want_one_key_build_it_once(
    store: EnvironmentStore, request_: Any, lock: Lock
) -> None:
    with ThreadPoolExecutor(4) as threads:
        acquired = list(threads.map(lambda _: store.acquire(lock, request_), range(4)))
    assert sorted(a.built for a in acquired) == [False, False, False, True]
    assert len({a.environment for a in acquired}) == 1
    assert len(entries(store)) == 1


def test_another_process_that_builds_the_key_is_waited_for(
    store: EnvironmentStore, request_: Any, lock: Lock, tmp_path: Path
) -> None:
    (tmp_path / "pylock.toml").write_text(lock.text)
    builder = subprocess.Popen(
        [sys.executable, "-c", _BUILDER, str(tmp_path), request_.package], stdout=subprocess.PIPE
    )
    wait_until(lambda: entries(store), "it is building")
    acquired = store.acquire(lock, request_)
    output, _ = builder.communicate()
    assert (acquired.built, output.strip()) == (False, b"True")


_BUILDER = """
import sys
from pathlib import Path
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls

directory, package = Path(sys.argv[1]), sys.argv[2]
lock = Lock.parse((directory / "pylock.toml").read_text())
request = PackageRequest(package, (package,), None, "", "3.11")
store = EnvironmentStore(directory / "packages", HARNESS, Workshop(inspect_walls(), Bounds(120)))
print(store.acquire(lock, request).built)
"""


def test_a_directory_without_a_marker_is_no_environment(
    store: EnvironmentStore, request_: Any, lock: Lock
) -> None:
    environment = store.acquire(lock, request_).environment
    (environment.directory / MARKER).unlink()
    (environment.directory / "bin" / "python").unlink()
    assert not store.has(lock, request_)
    assert store.acquire(lock, request_).built
    assert environment.python.exists()


def test_stopping_ends_a_build_with_all_its_processes_and_refuses_the_next(
    store: EnvironmentStore, small: Small, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as thread:
        locking = thread.submit(store.lock, small("slow-build"))
        wait_until(lambda: "sleep 600" in processes_below(tmp_path).values(), "it is building")
        store.interrupt()
        with pytest.raises(BuildInterrupted):
            locking.result(PATIENCE_SECONDS)
    wait_until(lambda: not processes_below(tmp_path), "the build's processes have ended")
    assert not list((tmp_path / "packages" / "scratch").iterdir())
    with pytest.raises(BuildInterrupted):
        store.lock(small("good"))


def test_a_worker_that_is_stopped_does_not_wait_for_another_workers_build(
    make_store: Callable[..., EnvironmentStore], request_: Any, lock: Lock
) -> None:
    building, stopped = make_store(), make_store()
    with building._alone(environment_key(lock, request_)):
        raised = threading.Event()

        def wait() -> None:
            with pytest.raises(BuildInterrupted):
                stopped.acquire(lock, request_)
            raised.set()

        thread = threading.Thread(target=wait)
        thread.start()
        stopped.interrupt()
        assert raised.wait(PATIENCE_SECONDS)
        thread.join()


def test_only_the_distributions_own_modules_are_imported(
    store: EnvironmentStore, small: Small
) -> None:
    request = small("several-modules", distribution="several-modules")
    acquired = store.acquire(store.lock(request), request)
    report, _ = store.inspect(acquired.environment)
    assert report["modules"] == ["loose", "several"]
    assert report["registered"] == ["several"]
    assert report["error"] == ""
    report, output = store.inspect(acquired.environment, "several.none")
    assert report["missing_module"] == "several.none"
    assert "ModuleNotFoundError" in output


def test_an_editable_package_is_found_by_the_name_it_gives_itself(
    environments: EnvironmentStore, store: EnvironmentStore, repositories: Any, tmp_path: Path
) -> None:
    source = tmp_path / "a directory"
    repositories.git(tmp_path, "clone", "--quiet", str(repositories.repository("good")), source)
    link = tmp_path / "link"
    link.symlink_to(source)
    library = f"dissmodel @ {repositories.requirement('stand-in-dissmodel')}"
    for path in (source, link):
        asked = request_for(str(path), None, allow_local=True)
        request = PackageRequest(asked.package, (library,), asked.tree, "a-wrong-guess", "3.11")
        lock = store.lock(request)
        acquired = store.acquire(lock, request)
        assert acquired.environment.distribution == "good-model"
        assert store.inspect(acquired.environment)[0]["modules"] == ["good_model"]
    key = environment_key(lock, request)
    (source / "good_model" / "more.py").write_text("")
    assert environment_key(lock, request) == key, "the source that is there is what runs"
    project = source / "pyproject.toml"
    project.write_text(project.read_text() + "\n# moved\n")
    assert environment_key(lock, request) != key, "another project file installs another way"


def test_environments_share_their_files_with_the_cache(
    store: EnvironmentStore, request_: Any, lock: Lock
) -> None:
    environment = store.acquire(lock, request_).environment
    [module] = environment.directory.glob("lib/python3*/site-packages/good_model/__init__.py")
    assert module.stat().st_nlink > 1
