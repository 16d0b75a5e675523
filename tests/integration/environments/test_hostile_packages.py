"""What packages manage that are made to break out, while they are locked and built."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.locking import LockMaker
from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.errors import BuildFailed
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import Walls, inspect_walls

PACKAGE = Path(__file__).parents[2] / "packages" / "hostile"
REFUSED = {
    "FileNotFoundError", "PermissionError", "ProcessLookupError", "ConnectionRefusedError",
    "gaierror", "OSError", "NotADirectoryError",
}  # fmt: skip


@pytest.fixture(params=[("namespaces", "landlock"), ("namespaces",), ("landlock",)], ids="+".join)
def walled(request: pytest.FixtureRequest, tmp_path: Path) -> EnvironmentStore:
    if set(request.param) - set(inspect_walls().builds):
        pytest.skip("this machine does not offer these walls")
    workshop = Workshop(Walls(builds=request.param), Bounds(120))
    return EnvironmentStore(tmp_path / "packages", HARNESS, workshop)


def publish(repositories: Any, directory: Path, aims: dict[str, Any], *, backend: bool) -> str:
    """Make a repository of the package; without its ``pyproject.toml`` the ``setup.py`` counts."""
    shutil.copytree(PACKAGE, directory, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "aims.json").write_text(json.dumps(aims))
    (directory / ("setup.py" if backend else "pyproject.toml")).unlink()
    repositories.git(directory, "init", "--quiet", "--initial-branch=main")
    repositories.commit(directory, "v0.1.0")
    return f"git+{directory.as_uri()}@v0.1.0"


@pytest.mark.parametrize("backend", [True, False], ids=["build backend", "setup.py"])
def test_a_hostile_package_manages_nothing(
    walled: EnvironmentStore,
    repositories: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: bool,
) -> None:
    monkeypatch.setenv("API_KEYS", "a-secret-of-the-platform")
    packages = tmp_path / "packages"
    other = packages / "environments" / "other"
    other.mkdir()
    wheel = packages / "wheels" / "other.whl"
    wheel.write_text("bytes")
    secret = tmp_path / "api-key"
    secret.write_text("the-secret-in-the-file")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as database,
    ):
        database.bind(str(tmp_path / "db"))
        database.listen()
        aims = {
            "secret": str(secret),
            "worker": os.getpid(),
            "cache": str(packages / "cache"),
            "environment": str(other),
            "wheel": str(wheel),
            "database": str(tmp_path / "db"),
            "port": server.getsockname()[1],
        }
        package = publish(repositories, tmp_path / "hostile", aims, backend=backend)
        with pytest.raises(BuildFailed) as failed:
            walled.lock(request_for(package, None, allow_local=True))
    reported = failed.value.output_tail.rpartition("REPORT {")[2]
    managed = json.JSONDecoder().raw_decode("{" + reported)[0]
    assert "a-secret-of-the-platform" not in managed.pop("variables")
    if "namespaces" not in walled.workshop.walls.builds:  # what Landlock does not know
        managed.pop("reach the database's socket")
        managed.pop("signal the worker")
    if "namespaces" in walled.workshop.walls.builds:
        # the worker's number may be one of the build's own processes there
        assert managed.pop("signal the worker") in {*REFUSED, None}
    assert set(managed.values()) <= REFUSED, managed
    assert wheel.read_text() == "bytes"
    assert list(other.iterdir()) == []
    assert not list((packages / "cache").glob("poison*"))
    assert not list((packages / "scratch").iterdir())


def test_the_import_check_sees_no_network_and_changes_nothing(
    walled: EnvironmentStore, small: Callable[..., PackageRequest], tmp_path: Path
) -> None:
    """The package is good; what is checked is the room that the check runs in."""
    secret = tmp_path / "api-key"
    secret.write_text("the-secret-in-the-file")
    request = small("good")
    environment = walled.acquire(walled.lock(request), request).environment
    probe = tmp_path / "packages" / "environments" / environment.key / "probe.py"
    probe.write_text(
        "import json, os, socket, sys\n"
        "from dissmodel.executor import ModelExecutor\n"
        "found = {}\n"
        "def attempt(name, work):\n"
        "    try: found[name] = repr(work())\n"
        "    except OSError as error: found[name] = type(error).__name__\n"
        "attempt('write', lambda: open(os.path.join(sys.prefix, 'x'), 'w'))\n"
        "attempt('network', lambda: socket.create_connection(('127.0.0.1', 9), 5))\n"
        f"attempt('secret', lambda: open({str(secret)!r}).read())\n"
        "print('FOUND ' + json.dumps(found))\n"
    )
    [site] = environment.directory.glob("lib/python3*/site-packages")
    probe.rename(site / "probe.py")
    _, output = walled.inspect(environment, "probe")
    found = json.JSONDecoder().raw_decode("{" + output.rpartition("FOUND {")[2])[0]
    assert set(found.values()) <= REFUSED, found


@pytest.mark.parametrize(
    "leave",
    [
        "os.mkfifo(report)",
        "os.symlink('/etc/hostname', report)",
        "os.truncate(os.open(report, os.O_CREAT | os.O_WRONLY), 10**9)",
        "open(report, 'w').write('[' * 100_000)",
        "open(report, 'w').write('{}')",
    ],
)
def test_a_package_that_writes_the_report_of_its_check_fails_it(
    store: EnvironmentStore, small: Callable[..., PackageRequest], leave: str
) -> None:
    request = small("good")
    environment = store.acquire(store.lock(request), request).environment
    [site] = environment.directory.glob("lib/python3*/site-packages")
    (site / "probe.py").write_text(
        f"import os, sys\nreport = sys.argv[sys.argv.index('--report') + 1]\n{leave}\nos._exit(0)\n"
    )
    with pytest.raises(BuildFailed, match="spoils the check"):
        store.inspect(environment, "probe")


@pytest.mark.parametrize(
    "forged",
    [
        'file = "../../../../outside-1.0-py3-none-any.whl"',
        'file = "good-1.0-py3-none-any.whl"',
        'file = "good"',
    ],
)
def test_a_build_cannot_write_the_platform_s_own_part_of_a_lock(
    store: EnvironmentStore,
    small: Callable[..., PackageRequest],
    tmp_path: Path,
    forged: str,
) -> None:
    """What builds for the resolver can reach its answer, so the answer is not trusted."""
    maker = LockMaker(
        store.uv, small("good"), tmp_path, tmp_path / "wheels", lambda _: None, tmp_path / "private"
    )
    hash_ = "0" * 64
    (tmp_path / "pylock.toml").write_text(
        'lock-version = "1.0"\n[[tool.dissmodel-platform.wheels]]\nname = "good"\n'
        f'{forged}\nsha256 = "{hash_}"\n'
    )
    with pytest.raises(BuildFailed):
        maker._read_lock()
