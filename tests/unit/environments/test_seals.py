"""A seal notices what somebody changed, and not what Python leaves behind."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dissmodel_platform.environments.seals import MARKER, RECORD, Seals, altered, damage, seal


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    directory = tmp_path / "sealed"
    (directory / "package" / "__pycache__").mkdir(parents=True)
    (directory / "package" / "__init__.py").write_text("answer = 42\n")
    (directory / "package" / "__pycache__" / "__init__.pyc").write_bytes(b"compiled")
    (directory / "link").symlink_to("package")
    (directory / "empty").mkdir()
    seal(directory, {"name": "test"})
    return directory


def replace_link(directory: Path) -> None:
    (directory / "link").unlink()
    (directory / "link").symlink_to("empty")


def keep_the_size(directory: Path) -> None:
    (directory / "package" / "__init__.py").write_text("answer = 43\n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: (d / "package" / "__init__.py").unlink(), "package/__init__.py"),
        (lambda d: (d / "package" / "__init__.py").write_text(""), "package/__init__.py"),
        (keep_the_size, "package/__init__.py"),
        (lambda d: (d / "package" / "__pycache__" / "__init__.pyc").write_bytes(b"other"),
         "package/__pycache__/__init__.pyc"),
        (lambda d: (d / "package" / "__init__.py").chmod(0o200), "package/__init__.py"),
        (lambda d: (d / "package" / "more.py").write_text(""), "package/more.py"),
        (replace_link, "link"),
        (lambda d: (d / "empty").rmdir(), "empty"),
        (lambda d: (d / RECORD).write_text("{}"), RECORD),
        (lambda d: (d / RECORD).unlink(), RECORD),
        (lambda d: (d / MARKER).write_text("{"), MARKER),
        (lambda d: (d / MARKER).unlink(), MARKER),
    ],
)  # fmt: skip
def test_what_was_changed_is_named(
    sealed: Path, change: Callable[[Path], object], named: str
) -> None:
    assert damage(sealed) == []
    change(sealed)
    assert damage(sealed) == [named]
    assert not Seals().is_whole(sealed, sealed)


def test_what_was_moved_or_put_in_the_place_of_another_is_named(sealed: Path) -> None:
    moved = sealed.rename(sealed.with_name("moved"))
    assert damage(moved) == [MARKER]
    seal(moved, {}, place=sealed)
    assert damage(moved) == [MARKER]
    assert damage(moved.rename(sealed)) == []
    link = sealed.with_name("the same by another name")
    link.symlink_to(sealed)
    assert damage(link) == []


@pytest.mark.parametrize("name", ["empty/__pycache__/x.pyc", "matplotlib/fontlist.json"])
def test_what_an_import_leaves_behind_is_no_damage(sealed: Path, name: str) -> None:
    (sealed / name).parent.mkdir()
    (sealed / name).write_text("")
    assert damage(sealed) == []


def test_all_files_are_looked_at_once_then_when_the_top_changes_or_on_demand(sealed: Path) -> None:
    seals = Seals()
    assert seals.is_whole(sealed, sealed)
    keep_the_size(sealed)
    assert seals.is_whole(sealed, sealed), "nothing at the top has changed"
    seals.forget(sealed)
    assert not seals.is_whole(sealed, sealed)
    seal(sealed, {})
    assert seals.is_whole(sealed, sealed)
    (sealed / "package" / "more.py").write_text("")
    assert not seals.is_whole(sealed, sealed), "a directory at the top has another time"
    assert not seals.is_whole(sealed / "none", sealed / "none")


def test_the_time_of_the_marker_is_not_part_of_the_seal(sealed: Path) -> None:
    seals = Seals()
    assert seals.is_whole(sealed, sealed)
    (sealed / "package" / "__init__.py").write_text("answer = 43\n")
    os.utime(sealed / MARKER, (0, 0))
    assert seals.is_whole(sealed, sealed), "so the files were not looked at again"


@pytest.mark.parametrize("name", ["package/module.py", "package/a, b.py", 'package/"q".py'])
def test_files_that_are_not_those_of_their_wheel_are_found(tmp_path: Path, name: str) -> None:
    info = tmp_path / "Some_Package-1.0.dist-info"
    (tmp_path / "package").mkdir()
    info.mkdir()
    (tmp_path / name).write_bytes(b"answer = 42\n")
    for file in (tmp_path / name, info / "METADATA", info / "WHEEL"):
        file.touch()
        os.utime(file, ns=(10**18, 10**18))
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"answer = 42\n").digest()).decode()
    with (info / "RECORD").open("w", newline="") as opened:
        csv.writer(opened).writerows(
            [[name, "sha256=" + digest.rstrip("="), 12], ["../../../bin/x", "sha256=x", 1],
             ["Some_Package-1.0.dist-info/RECORD", "", ""]]
        )  # fmt: skip
    assert altered(tmp_path) == altered(tmp_path, thorough=True) == []
    (tmp_path / name).write_bytes(b"answer = 43\n")
    assert altered(tmp_path) == ["some-package"]
    os.utime(tmp_path / name, ns=(10**18, 10**18))
    assert altered(tmp_path) == [], "its time says that nobody wrote to it"
    assert altered(tmp_path, thorough=True) == ["some-package"]
    (tmp_path / name).unlink()
    assert altered(tmp_path) == ["some-package"]


def installed(site: Path, record: bytes) -> Path:
    """Install a wheel whose list of files says what it likes."""
    info = site / "evil-1.0.dist-info"
    info.mkdir(parents=True)
    for name in ("METADATA", "WHEEL"):
        (info / name).touch()
    (info / "RECORD").write_bytes(record)
    return site


def test_a_list_of_files_leads_nowhere_else(tmp_path: Path) -> None:
    """Some files never end, and the worker itself reads what a list names."""
    (tmp_path / "outside").write_text("x")
    for name in ("../outside", "x/../../outside", f"{tmp_path}/outside"):
        site = installed(tmp_path / f"site{len(name)}", f"{name},sha256=wrong,1\n".encode())
        (site / "x").mkdir()
        assert altered(site, thorough=True) == []


@pytest.mark.parametrize(
    "record",
    [b"\xff,sha256=x,1\n", b"a\0b,sha256=x,1\n", b'"' + b"x" * 200_000 + b'",sha256=x,1\n'],
)
def test_a_list_of_files_that_cannot_be_read_is_not_the_wheels(
    tmp_path: Path, record: bytes
) -> None:
    assert altered(installed(tmp_path / "site", record), thorough=True) == ["evil"]
