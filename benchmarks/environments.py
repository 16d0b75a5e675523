"""Environments: what each part of making one costs, and what a hundred of them take on the disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from uv import find_uv_bin

from benchmarks.figures import Figure, milliseconds
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.lock import BuiltWheel, Lock
from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.store import Acquired, Environment, EnvironmentStore
from dissmodel_platform.environments.uv import PYTHON
from dissmodel_platform.environments.wheels import choose_wheels, pylock_of
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.local_registry import make_local_registry
from dissmodel_platform.types import Sha256

_ROUNDS = 7
_ENVIRONMENTS = 100
_MODULE = "coastal_flood.flood_executor"


def measure() -> Iterator[Figure]:
    """Measure resolving, building, installing, importing, acquiring, and the disk."""
    with tempfile.TemporaryDirectory(prefix="bench-environments-") as place:
        directory = Path(place)
        store = EnvironmentStore(
            directory / "packages", HARNESS, Workshop(inspect_walls(), Bounds(1_800))
        )
        make_local_registry(directory / "local")
        repository = directory / "local" / "coastal-flood"
        request = request_for(f"git+{repository.as_uri()}@v0.1.0", None, allow_local=True)

        begin = time.perf_counter()
        lock = store.lock(request)
        locked = time.perf_counter() - begin
        first = store.acquire(lock, request)
        yield Figure(
            "lock: resolve the example and build its wheel, nothing cached", f"{locked:.1f} s", ""
        )
        yield Figure("first build of its environment on a machine", _parts(first), "")
        yield from _installing(store, directory, lock, request)
        yield from _importing(store, directory, lock, request)
        ready = [_timed(lambda: store.acquire(lock, request)) for _ in range(200)]
        yield Figure("a ready environment, acquired", milliseconds(ready), "≤ 5 ms p50")
        yield from _disk(store, directory, lock, request)


def _installing(
    store: EnvironmentStore, directory: Path, lock: Lock, request: PackageRequest
) -> Iterator[Figure]:
    """Install the lock from a warm cache, in turns with plain uv, which compiles nothing."""
    ours, check, plain = [], [], []
    for _ in range(_ROUNDS):
        for layer in ("environments", "libraries"):
            shutil.rmtree(directory / "packages" / layer)
            (directory / "packages" / layer).mkdir()
        built = store.acquire(lock, request)
        ours.append(built.seconds - built.parts["wait"] - built.parts["check"])
        check.append(built.parts["check"])
        plain.append(_timed(lambda: _plain(directory, lock)))
    ratio = statistics.median(ours) / statistics.median(plain)
    yield Figure(
        f"install a lock of {len(lock.packages)} packages from a warm cache, bytecode included",
        milliseconds(ours),
        "≤ 1.1 × uv",
        f"uv venv + uv pip sync {milliseconds(plain)}: ratio {ratio:.2f}",
    )
    yield Figure("health check of an environment", milliseconds(check), "")
    new = []
    for _ in range(_ROUNDS):
        shutil.rmtree(directory / "packages" / "environments")
        (directory / "packages" / "environments").mkdir()
        built = store.acquire(lock, request)
        new.append(built.seconds - built.parts["wait"] - built.parts["check"])
    yield Figure("install a new version of a model on the same libraries", milliseconds(new), "")


def _plain(directory: Path, lock: Lock, *options: str) -> Path:
    """Install the lock as a user of uv would, from the same cache."""
    environment = directory / "plain"
    shutil.rmtree(environment, ignore_errors=True)
    wheels = choose_wheels(lock, directory / "packages" / "wheels")
    (directory / "pylock.toml").write_text(pylock_of(wheels))
    variables = {
        **os.environ,
        "UV_CACHE_DIR": str(directory / "packages" / "cache"),
        "UV_LINK_MODE": "hardlink",
        "UV_NO_CONFIG": "1",
    }
    uv, python = find_uv_bin(), str(environment / "bin" / "python")
    for command in (
        [uv, "venv", "--quiet", "--python", PYTHON, str(environment)],
        [uv, "pip", "sync", "--quiet", "--offline", "--no-build", *options, "--python", python,
         "pylock.toml"],
    ):  # fmt: skip
        subprocess.run(command, cwd=directory, env=variables, check=True)
    return environment


def _importing(
    store: EnvironmentStore, directory: Path, lock: Lock, request: PackageRequest
) -> Iterator[Figure]:
    """Import the model's module here and where uv compiled the bytecode."""
    ours = store.acquire(lock, request).environment
    compiled = Environment(ours.key, _plain(directory, lock, "--compile-bytecode"), "")
    times: dict[str, list[float]] = {"ours": [], "compiled": []}
    for _ in range(_ROUNDS):
        for name, environment in (("ours", ours), ("compiled", compiled)):
            command = [str(environment.python), "-c", f"import {_MODULE}"]
            times[name].append(_timed(lambda: subprocess.run(command, check=True)))  # noqa: B023
    yield Figure(
        "import of the model in its environment",
        milliseconds(times["ours"]),
        "as compiled",
        f"compiled by uv {milliseconds(times['compiled'])}",
    )


def _disk(
    store: EnvironmentStore, directory: Path, lock: Lock, request: PackageRequest
) -> Iterator[Figure]:
    """Build a hundred models on the same libraries and count blocks, linked files once."""
    packages = directory / "packages"
    counted = ("environments", "libraries", "bytecode", "wheels")
    one = sum(_allocated(packages / part) for part in counted)
    begin = time.perf_counter()
    for number in range(_ENVIRONMENTS - 1):
        name = f"model-{number}"
        wheel = _tiny_wheel(directory, name)
        place = store.built_wheel(wheel)
        place.parent.mkdir(parents=True)
        shutil.move(directory / wheel.file, place)
        asked = replace(request, package=name, distribution=name)
        store.acquire(lock.with_built([wheel]), asked)
    seconds = (time.perf_counter() - begin) / (_ENVIRONMENTS - 1)
    many = sum(_allocated(packages / part) for part in counted)
    yield Figure(
        f"disk of {_ENVIRONMENTS} models on the same libraries",
        f"{many / 1e6:.0f} MB, {seconds:.2f} s each",
        "≤ 1.2 × one",
        f"one {one / 1e6:.0f} MB: ratio {many / one:.2f}",
    )


def _tiny_wheel(directory: Path, name: str) -> BuiltWheel:
    """Write a wheel with one executor."""
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    source = (
        "from dissmodel.executor import ModelExecutor\n\n\n"
        f"class Model(ModelExecutor):\n    name = {name!r}\n\n"
        "    def load(self, record):\n        return None\n\n"
        "    def run(self, data, record):\n        return data\n\n"
        "    def save(self, result, record):\n        return record\n"
    )
    files = {
        f"{module}/__init__.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = directory / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, content)
    return BuiltWheel(name, path.name, Sha256(hashlib.sha256(path.read_bytes()).hexdigest()))


def _allocated(directory: Path) -> int:
    """Return what a tree takes on the disk, in bytes; a file with several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(directory):
        for name in (".", *names):
            status = os.lstat(Path(place, name))
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _parts(acquired: Acquired) -> str:
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in acquired.parts.items())
    return f"{acquired.seconds:.1f} s ({parts})"
