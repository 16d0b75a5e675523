"""Environments share libraries and bytecode, and need nobody once everything is here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dissmodel_platform.environments import compile_wheel
from dissmodel_platform.environments.bytecode import BytecodeStore
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.store import Environment, EnvironmentStore
from dissmodel_platform.environments.wheels import Wheel
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.errors import EnvironmentBuildError
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.proxy import Destinations
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.types import Sha256

Small = Callable[..., PackageRequest]
TAG = sys.implementation.cache_tag


def site_of(environment: Environment) -> Path:
    [site] = environment.directory.glob("lib/python3*/site-packages")
    return site


def says(environment: Environment, code: str) -> str:
    command = [str(environment.python), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_models_with_the_same_libraries_share_them(store: EnvironmentStore, small: Small) -> None:
    requests = [small("good"), small("several-modules", distribution="several-modules")]
    first, second = [store.acquire(store.lock(each), each).environment for each in requests]
    [layer] = [path for path in store._libraries.iterdir() if path.is_dir()]
    for environment in (first, second):
        assert layer in environment.parts
        assert not (site_of(environment) / "dissmodel").exists()
        found = says(environment, "import dissmodel; print(dissmodel.__file__)")
        assert Path(found).is_relative_to(layer)
    own = says(first, "import good_model; print(good_model.__file__, good_model.__cached__)")
    assert own.startswith(str(first.directory))
    assert says(first, "import importlib.metadata as m; print(m.version('dissmodel'))")


def test_a_model_that_reaches_into_a_library_is_installed_with_it(
    store: EnvironmentStore, small: Small
) -> None:
    request = small("inside-a-library", distribution="inside-a-library")
    environment = store.acquire(store.lock(request), request).environment
    assert (site_of(environment) / "dissmodel" / "inside.py").is_file()
    assert (site_of(environment) / "dissmodel" / "executor.py").is_file() or (
        site_of(environment) / "dissmodel" / "executor"
    ).is_dir()
    report, output = store.inspect(environment)
    assert report["registered"] == ["inside"], output
    assert all("libraries" not in part.parts for part in environment.parts)


@pytest.fixture
def unreachable(tmp_path: Path) -> EnvironmentStore:
    """A store whose network leads nowhere, on the directory of `store`."""
    nowhere = Destinations(any_public=False)
    workshop = Workshop(inspect_walls(), Bounds(120), nowhere)
    return EnvironmentStore(tmp_path / "packages", HARNESS, workshop)


def test_what_is_locked_and_cached_is_built_without_a_network(
    store: EnvironmentStore, unreachable: EnvironmentStore, small: Small, tmp_path: Path
) -> None:
    request = replace(small("good"), requirements=(*small("good").requirements, "six==1.16.0"))
    lock = store.lock(request)
    assert store.acquire(lock, request).built
    for layer in ("environments", "libraries", "bytecode"):
        shutil.rmtree(tmp_path / "packages" / layer)
        (tmp_path / "packages" / layer).mkdir()
    acquired = unreachable.acquire(lock, request)
    assert acquired.built
    assert says(acquired.environment, "import six; print(six.__version__)") == "1.16.0"
    assert lock.find("six") is not None
    shutil.rmtree(tmp_path / "packages" / "cache")
    shutil.rmtree(tmp_path / "packages" / "environments")
    shutil.rmtree(tmp_path / "packages" / "libraries")
    reopened = EnvironmentStore(tmp_path / "packages", HARNESS, unreachable.workshop)
    with pytest.raises(EnvironmentBuildError, match="cannot be reached"):
        reopened.acquire(lock, request)


# --- bytecode


@pytest.fixture
def site(tmp_path: Path) -> Path:
    place = tmp_path / "environment" / "site-packages"
    place.mkdir(parents=True)
    return place


@pytest.fixture
def bytecode(tmp_path: Path) -> BytecodeStore:
    directory = tmp_path / "bytecode"
    directory.mkdir()
    return BytecodeStore(directory, Workshop(inspect_walls(), Bounds(60)))


def install(site: Path, name: str, files: dict[str, str], *claimed: str) -> Wheel:
    """Put a wheel's files in place, with a record that also claims others; and beside, alone."""
    for place in (site, site.parent / name):
        for file, text in files.items():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(text)
        info = place / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in (*files, *claimed)))
    return Wheel(name, "1.0", f"{name}-1.0-py3-none-any.whl", Sha256(name[0] * 64), "")


def link(bytecode: BytecodeStore, site: Path, wheels: list[Wheel]) -> None:
    bytecode.link(site, wheels, lambda wheel, _: site.parent / wheel.name)


def compiled(site: Path, module: str) -> Path:
    source = site / module
    return source.parent / "__pycache__" / f"{source.stem}.{TAG}.pyc"


def test_a_package_of_one_wheel_is_linked_as_a_whole(bytecode: BytecodeStore, site: Path) -> None:
    files = {"tide/__init__.py": "x = 1\n", "tide/deep/er.py": "y = 2\n", "alone.py": ""}
    wheel = install(site, "tide", files)
    link(bytecode, site, [wheel])
    for module in files:
        assert compiled(site, module).is_file()
    assert (site / "tide" / "__pycache__").is_symlink()
    again = site.parent.parent / "again" / "site-packages"
    again.mkdir(parents=True)
    install(again, "tide", files)
    before = {path: path.stat().st_mtime_ns for path in bytecode.directory.rglob("*.pyc")}
    link(bytecode, again, [wheel])
    assert compiled(again, "tide/deep/er.py").samefile(compiled(site, "tide/deep/er.py"))
    assert before == {path: path.stat().st_mtime_ns for path in bytecode.directory.rglob("*.pyc")}


def test_wheels_that_share_a_directory_each_get_their_own(
    bytecode: BytecodeStore, site: Path
) -> None:
    one = install(site, "one", {"space/a.py": "", "six.py": ""})
    two = install(site, "two", {"space/b.py": "", "seven.py": ""})
    link(bytecode, site, [one, two])
    for module in ("space/a.py", "space/b.py", "six.py", "seven.py"):
        assert compiled(site, module).is_file()
    assert not (site / "space" / "__pycache__").is_symlink()


def test_a_module_that_two_wheels_claim_has_none(bytecode: BytecodeStore, site: Path) -> None:
    """One wheel may not bring bytecode for another one's module, whatever its record says."""
    good = install(site, "good", {"tide/__init__.py": "x = 1\n", "tide/own.py": ""})
    claimed = {"evil.py": "", "tide/__init__.py": "x = 3\n"}
    evil = install(site, "evil", claimed, "../../outside.py", "/etc/x.py")
    link(bytecode, site, [good, evil])
    assert not compiled(site, "tide/__init__.py").exists()
    assert compiled(site, "tide/own.py").is_file()
    assert compiled(site, "evil.py").is_file()
    # compiled together with another version of the library, used beside this one
    other = site.parent.parent / "other" / "site-packages"
    other.mkdir(parents=True)
    install(other, "good", {"tide/__init__.py": "x = 2\n", "tide/own.py": ""})
    install(other, "evil", claimed)
    newer = replace(good, sha256=Sha256("9" * 64))
    link(bytecode, other, [newer, evil])
    assert not compiled(other, "tide/__init__.py").exists()


def test_a_wheel_that_overwrites_another_s_module_does_not_get_into_its_bytecode(
    bytecode: BytecodeStore, site: Path
) -> None:
    """The bytecode is used wherever the other wheel is installed, without this one as well."""
    good = install(site, "good", {"tide/__init__.py": "x = 'good'\n"})
    evil = install(site, "evil", {"evil.py": "", "tide/__init__.py": "x = 'evil'\n"})
    (site / "evil-1.0.dist-info" / "RECORD").write_text("evil.py,,\n")
    link(bytecode, site, [good, evil])
    clean = site.parent.parent / "clean" / "site-packages"
    clean.mkdir(parents=True)
    install(clean, "good", {"tide/__init__.py": "x = 'good'\n"})
    link(bytecode, clean, [good])
    assert b"good" in compiled(clean, "tide/__init__.py").read_bytes()
    assert b"evil" not in compiled(clean, "tide/__init__.py").read_bytes()


@pytest.mark.parametrize("rest", [b"\xff,,\n", b'"' + b"x" * 200_000 + b'",,\n', b"\0.py,,\n"])
def test_a_record_that_cannot_be_read_costs_a_wheel_its_bytecode_only(
    bytecode: BytecodeStore, site: Path, rest: bytes
) -> None:
    good = install(site, "good", {"tide.py": ""})
    evil = install(site, "evil", {"evil.py": ""})
    with (site.parent / "evil" / "evil-1.0.dist-info" / "RECORD").open("ab") as record:
        record.write(rest)
    link(bytecode, site, [good, evil])
    assert compiled(site, "tide.py").is_file()


def test_what_does_not_compile_costs_the_others_nothing(
    bytecode: BytecodeStore, site: Path
) -> None:
    deep = "x = " + "(" * 3000 + ")" * 3000
    wheel = install(site, "mixed", {"m/old.py": "print 'x'\n", "m/deep.py": deep, "m/new.py": ""})
    link(bytecode, site, [wheel])
    assert compiled(site, "m/new.py").is_file()
    assert not compiled(site, "m/old.py").exists()
    assert not compiled(site, "m/deep.py").exists()


FULL_DISK = """
import errno, py_compile
def full(*_, cfile, **__):
    open(cfile, "w").write("half")
    raise OSError(errno.ENOSPC, "No space left on device")
py_compile.compile = full
"""


def test_a_full_disk_does_not_cost_a_wheel_its_bytecode_for_ever(
    bytecode: BytecodeStore, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = install(site, "tide", {"tide/__init__.py": "x = 1\n"})
    compiler = tmp_path / "compile_wheel.py"
    code = Path(compile_wheel.__file__).read_text()
    compiler.write_text(code.replace("\nNO_ROOM =", f"{FULL_DISK}\nNO_ROOM ="))
    with monkeypatch.context() as patch:
        patch.setattr("dissmodel_platform.environments.bytecode._COMPILE", compiler)
        with pytest.raises(OSError, match="No space left"):
            link(bytecode, site, [wheel])
    assert not bytecode.is_whole(wheel.sha256)
    link(bytecode, site, [wheel])
    assert compiled(site, "tide/__init__.py").is_file()


def test_the_lock_of_a_shared_library_is_not_the_environments_name(
    store: EnvironmentStore, small: Small
) -> None:
    """The marker names what an environment consists of, so that it can be told what is in use."""
    request = small("good")
    lock = store.lock(request)
    environment = store.acquire(lock, request).environment
    marker = json.loads((environment.directory / "platform.json").read_text())
    assert marker["libraries"] in {part.name for part in environment.parts}
    assert set(marker["wheels"]) == {"good-model", "dissmodel"}
    assert {wheel.sha256 for wheel in lock.built} == set(marker["wheels"].values())
    assert Lock.parse((environment.directory / "pylock.toml").read_text()) == lock
