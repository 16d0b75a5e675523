"""Reading a lock, and naming the content of the environment that it makes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from dissmodel_platform.environments.lock import BuiltWheel, Lock, LockedPackage, environment_key
from dissmodel_platform.environments.packages import PackageRequest, SourceTree
from dissmodel_platform.types import Sha256

A, B, C = "a" * 64, "b" * 64, "c" * 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = f"""
lock-version = "1.0"
created-by = "uv"
requires-python = ">=3.11"

[[packages]]
name = "coastal-flood"
version = "0.1.0"
vcs = {{ type = "git", url = "https://example.org/lab/flood", commit-id = "{COMMIT}" }}

[[packages]]
name = "dissmodel"
version = "0.6.2"
sdist = {{ url = "https://example.org/dissmodel.tar.gz", hashes = {{ sha256 = "{A}" }} }}
wheels = [{{ url = "https://example.org/dissmodel.whl", hashes = {{ sha256 = "{B}" }} }}]

[[packages]]
name = "tide_tables"
version = "2.0"
archive = {{ url = "https://example.org/tide.whl", hashes = {{ sha256 = "{C}" }} }}
"""


def request(**changes: object) -> PackageRequest:
    package = "coastal-flood @ git+https://example.org/lab/flood@v1"
    made = PackageRequest(package, (package, "dissmodel"), None, "coastal-flood", "3.11")
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_lock_names_versions_hashes_and_commits() -> None:
    lock = Lock.parse(TEXT)
    wheel, sdist = (
        ("https://example.org/dissmodel.whl", B),
        ("https://example.org/dissmodel.tar.gz", A),
    )
    tide = "https://example.org/tide.whl"
    assert lock.packages == (
        LockedPackage("coastal-flood", "0.1.0", (), COMMIT, "https://example.org/lab/flood"),
        LockedPackage("dissmodel", "0.6.2", (A, B), "", wheels=(wheel,), sdist=sdist),
        LockedPackage("tide_tables", "2.0", (C,), "", tide, wheels=((tide, C),)),
    )
    assert lock.built == ()
    assert lock.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.mark.parametrize("name", ["tide_tables", "Tide-Tables", "tide.tables", "tide__tables"])
def test_names_are_compared_as_packaging_does(name: str) -> None:
    found = Lock.parse(TEXT).find(name)
    assert found is not None
    assert found.name == "tide_tables"
    assert Lock.parse(TEXT).find("tide") is None


@pytest.mark.parametrize(
    ("package", "distribution", "expected"),
    [
        ("coastal-flood @ git+https://example.org/lab/flood@v1", "coastal-flood", "coastal-flood"),
        ("git+https://example.org/lab/flood@v1", "", "coastal-flood"),
        ("git+https://user@example.org/lab/flood@v1", "", "coastal-flood"),
        ("https://example.org/tide.whl#sha256=c", "", "tide_tables"),
        ("dissmodel==0.6.2", "dissmodel", "dissmodel"),
        ("other==1", "other", None),
    ],
)
def test_the_models_own_package(package: str, distribution: str, expected: str | None) -> None:
    own = Lock.parse(TEXT).model_package(request(package=package, distribution=distribution))
    assert (own.name if own else None) == expected


def test_two_packages_of_one_repository_are_told_apart_by_their_directory() -> None:
    packages = tuple(
        LockedPackage(name, "1", (), COMMIT, "https://example.org/lab/models", name)
        for name in ("base", "flood")
    )
    lock = Lock("", (LockedPackage("another", "1", (), COMMIT, "https://example.org/x"), *packages))
    asked = request(
        package="git+https://example.org/lab/models@v1#subdirectory=flood", distribution=""
    )
    assert lock.model_package(asked) == packages[1]


@pytest.mark.parametrize("user", ["", "modeller@"])
def test_a_repository_whose_name_begins_like_anothers_is_not_taken_for_it(user: str) -> None:
    packages = tuple(
        LockedPackage(name, "1", (), COMMIT, f"https://example.org/lab/{name}")
        for name in ("another", "flood", "flood-model")
    )
    asked = request(package=f"git+https://{user}example.org/lab/flood-model@v1", distribution="")
    assert Lock("", packages).model_package(asked) == packages[2]


def test_the_key_does_not_depend_on_the_locks_layout() -> None:
    blocks = TEXT.strip().split("\n\n")
    shuffled = "\n\n\n".join([blocks[0], *reversed(blocks[1:])]) + "\n# a comment\n"
    moved = shuffled.replace("https://example.org/dissmodel", "https://mirror.example.org/d")
    assert Lock.parse(moved).sha256 != Lock.parse(TEXT).sha256
    assert environment_key(Lock.parse(moved), request()) == environment_key(
        Lock.parse(TEXT), request()
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('version = "0.6.2"', 'version = "0.6.3"'),
        (A, "d" * 64),
        (COMMIT, COMMIT[::-1]),
        ('name = "tide_tables"', 'name = "tide"'),
    ],
)
def test_the_key_changes_with_each_package(old: str, new: str) -> None:
    assert old in TEXT
    assert environment_key(Lock.parse(TEXT.replace(old, new)), request()) != environment_key(
        Lock.parse(TEXT), request()
    )


def test_the_key_changes_with_python_and_the_tree_that_is_developed(tmp_path: Path) -> None:
    lock = Lock.parse(TEXT)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "flood.py").write_text("x = 1\n")
    editable = request(tree=SourceTree(tmp_path, editable=True))
    requests = [request(), request(python="3.12"), editable]
    keys = [environment_key(lock, r) for r in requests]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 and int(key, 16) for key in keys)

    (tmp_path / "flood.py").write_text("x = 2\n")
    assert environment_key(lock, editable) == keys[2], "the present source is what runs"
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'tide'\n")
    assert environment_key(lock, editable) != keys[2]


def test_a_tree_that_is_copied_asks_for_another_lock_when_it_changes(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "flood.py").write_text("x = 1\n")
    copied = request(tree=SourceTree(tmp_path, editable=False))
    before = copied.digest()
    (tmp_path / "flood.py").write_text("x = 2\n")
    assert copied.digest() != before


def test_wheels_that_were_built_are_part_of_the_lock_and_of_the_key() -> None:
    lock = Lock.parse(TEXT)
    built = [BuiltWheel("coastal-flood", "coastal_flood-0.1.0-py3-none-any.whl", Sha256(A))]
    with_built = lock.with_built(built)
    assert with_built.built == tuple(built)
    assert with_built.packages == lock.packages
    assert Lock.parse(with_built.text) == with_built
    other = lock.with_built([replace(built[0], sha256=Sha256(B))])
    keys = {environment_key(each, request()) for each in (lock, with_built, other)}
    assert len(keys) == 3
    assert lock.with_built([]) == lock


def test_the_spelling_of_the_request_is_not_part_of_the_key() -> None:
    lock = Lock.parse(TEXT)
    other = request(package="git+https://example.org/lab/flood@v1", distribution="")
    assert environment_key(lock, other) == environment_key(lock, request())


@pytest.mark.parametrize(
    ("file", "sha256"),
    [
        ("../../outside-1.0-py3-none-any.whl", "0" * 64),
        ("/etc/x-1.0-py3-none-any.whl", "0" * 64),
        ("x-1.0-py3-none-any.whl", "../../outside"),
        ("x-1.0-1/../../y-py3-none-any.whl", "0" * 64),
        ("passwd", "0" * 64),
    ],
)
def test_a_built_wheel_whose_name_is_a_path_is_refused(file: str, sha256: str) -> None:
    text = f'[[tool.dissmodel-platform.wheels]]\nname = "x"\nfile = "{file}"\nsha256 = "{sha256}"\n'
    with pytest.raises(ValueError, match=r"wheel|name"):
        Lock.parse(text)
