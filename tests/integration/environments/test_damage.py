"""Environments that somebody damaged are noticed and mended, and so is what they are linked to."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.seals import MARKER, read_marker, seal
from dissmodel_platform.environments.store import Acquired, Environment, EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls

Kept = tuple[Path, PackageRequest, Lock]
Damage = Callable[[Environment], object]


def open_store(directory: Path) -> EnvironmentStore:
    return EnvironmentStore(directory, HARNESS, Workshop(inspect_walls(), Bounds(120)))


@pytest.fixture(scope="module")
def kept(repositories: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """Make one directory with one environment, which each test damages and mends."""
    package = repositories.requirement("good")
    library = f"dissmodel @ {repositories.requirement('stand-in-dissmodel')}"
    request = PackageRequest(package, (package, library), None, "", "3.11")
    directory = tmp_path_factory.mktemp("damaged") / "packages"
    store = open_store(directory)
    lock = store.lock(request)
    store.acquire(lock, request)
    yield directory, request, lock
    shutil.rmtree(directory, ignore_errors=True)


def acquire(kept: Kept, store: EnvironmentStore | None = None) -> Acquired:
    """Acquire as a process does that has just started, unless a store is given."""
    directory, request, lock = kept
    return (store or open_store(directory)).acquire(lock, request)


def site(directory: Path) -> Path:
    [found] = directory.glob("lib/python3*/site-packages")
    return found


def module(environment: Environment) -> Path:
    return site(environment.directory) / "good_model" / "__init__.py"


def libraries(environment: Environment) -> Path:
    [layer] = (part for part in environment.parts if part.parent.name == "libraries")
    return layer


def bytecode(environment: Environment) -> list[Path]:
    compiled = [part for part in environment.parts if part.parent.name == "bytecode"]
    return [file for part in compiled for file in part.rglob("*.pyc")]


def write_in_place(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"raise SystemExit('damaged')#")


def update_python(environment: Environment) -> None:
    """Leave what a move of the interpreter that environments are made of leaves."""
    marker = read_marker(environment.directory) or {}
    environment.python.unlink()
    environment.python.symlink_to("/nowhere/python")
    seal(environment.directory, marker)


def works(environment: Environment) -> bool:
    command = [str(environment.python), "-c", "import good_model, dissmodel.executor"]
    return subprocess.run(command, check=False).returncode == 0


DAMAGES: dict[str, Damage] = {
    "a file of the package is gone": lambda e: module(e).unlink(),
    "a file of the package was written to": lambda e: write_in_place(module(e)),
    "a directory of the libraries is gone": lambda e: shutil.rmtree(
        site(libraries(e)) / "dissmodel"
    ),
    "a file of the libraries was written to": lambda e: write_in_place(
        site(libraries(e)) / "dissmodel" / "executor" / "__init__.py"
    ),
    "the libraries are gone": lambda e: shutil.rmtree(libraries(e)),
    "bytecode was cut off": lambda e: [os.truncate(file, 20) for file in bytecode(e)],
    "bytecode is gone": lambda e: [file.unlink() for file in bytecode(e)],
    "the interpreter is gone": lambda e: e.python.unlink(),
    "the interpreter leads nowhere": update_python,
    "a file cannot be read": lambda e: module(e).chmod(0o200),
    "the marker says nothing": lambda e: (e.directory / MARKER).write_text("{}"),
    "a module was added": lambda e: (site(e.directory) / "numpy.py").write_text(""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_process_that_starts_mends_what_was_damaged(kept: Kept, name: str) -> None:
    before = acquire(kept).environment
    DAMAGES[name](before)
    mended = acquire(kept)
    assert mended.built
    assert works(mended.environment)
    assert mended.environment.key == before.key
    assert mended.environment.build != before.build, "so no preloaded process of before is used"
    again = acquire(kept)
    assert not again.built
    assert again.environment == mended.environment
    assert not list((kept[0] / "scratch").iterdir())


def test_environments_that_were_moved_are_not_taken_for_those_of_their_new_place(
    kept: Kept, tmp_path: Path
) -> None:
    """Their files name one another by where they were."""
    acquire(kept)
    moved = tmp_path / "moved"
    subprocess.run(["cp", "-a", str(kept[0]), str(moved)], check=True)
    acquired = acquire((moved, *kept[1:]))
    assert acquired.built
    code = "import dissmodel, good_model as g, os; print(dissmodel.__file__)"
    code += "; print(os.path.realpath(g.__cached__))"
    command = [str(acquired.environment.python), "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert all(Path(path).is_relative_to(moved) for path in found), found
    assert not acquire((moved, *kept[1:])).built


def test_all_can_be_deleted_under_a_process_that_goes_on(kept: Kept) -> None:
    store = open_store(kept[0])
    acquire(kept, store)
    wheels = [store.built_wheel(wheel) for wheel in kept[2].built]
    saved = [(wheel, wheel.read_bytes()) for wheel in wheels]
    shutil.rmtree(kept[0])
    assert store.find(kept[2], kept[1]) is None
    for wheel, content in saved:  # as the object store gives them back
        wheel.parent.mkdir(parents=True)
        wheel.write_bytes(content)
    assert acquire(kept, store).built
    assert not acquire(kept, store).built
    shutil.rmtree(kept[0])
    lock = store.lock(kept[1])
    assert [wheel.name for wheel in lock.built] == [wheel.name for wheel in kept[2].built]
    for wheel, content in saved:
        wheel.parent.mkdir(parents=True, exist_ok=True)
        wheel.write_bytes(content)


def test_a_process_looks_again_when_the_top_changes_or_it_is_told_to(kept: Kept) -> None:
    store = open_store(kept[0])
    environment = acquire(kept, store).environment
    (site(environment.directory) / "numpy.py").write_text("")
    assert not store.has(kept[2], kept[1])
    environment = acquire(kept, store).environment
    assert not acquire(kept, store).built
    write_in_place(module(environment))
    assert not acquire(kept, store).built, "what lies deeper is not looked at each time"
    store.forget(environment)
    assert acquire(kept, store).built


def test_a_file_that_was_written_to_is_not_linked_from_the_cache_again(kept: Kept) -> None:
    environment = acquire(kept).environment
    before = module(environment).read_bytes()
    assert module(environment).stat().st_nlink > 1, "it is the cache's own file"
    times = module(environment).stat()
    write_in_place(module(environment))
    os.utime(module(environment), ns=(times.st_atime_ns, times.st_mtime_ns - 1))
    assert module(acquire(kept).environment).read_bytes() == before
    # an environment that is made anew while nobody knows of the damage
    write_in_place(module(environment))
    shutil.rmtree(environment.directory)
    assert module(acquire(kept).environment).read_bytes() == before


def test_what_packages_compile_at_run_time_is_no_damage(kept: Kept) -> None:
    environment = acquire(kept).environment
    cache = module(environment).parent / "__pycache__"
    assert cache.is_symlink(), "it leads to the bytecode that is shared"
    (cache / "good_model.growth-7.py311.nbi").write_bytes(b"compiled")
    assert not acquire(kept).built


def test_a_ready_environment_is_acquired_in_five_milliseconds(kept: Kept) -> None:
    store = open_store(kept[0])
    acquire(kept, store)
    begin = time.perf_counter()
    seconds = [acquire(kept, store).seconds for _ in range(50)]
    assert statistics.median(seconds) < 0.005, time.perf_counter() - begin


def test_a_wheel_that_was_built_counts_only_with_its_bytes(kept: Kept) -> None:
    directory, _, lock = kept
    store = open_store(directory)
    wheel = lock.built[0]
    assert store.has_wheel(wheel)
    path = store.built_wheel(wheel)
    content = path.read_bytes()
    path.unlink()
    assert not store.has_wheel(wheel)
    path.write_bytes(content[:-1])
    assert not store.has_wheel(wheel)
    path.write_bytes(content)
    assert store.has_wheel(wheel)
