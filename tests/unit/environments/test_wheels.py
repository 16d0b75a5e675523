"""Choosing the wheel of each package for this machine."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.tags import sys_tags

from dissmodel_platform.environments.lock import Lock, LockedPackage
from dissmodel_platform.environments.wheels import best_wheel, choose_wheels, pylock_of
from dissmodel_platform.errors import BuildFailed

A, B, C = "a" * 64, "b" * 64, "c" * 64
BASE = "https://example.org/files"


def package(*files: str) -> LockedPackage:
    wheels = tuple((f"{BASE}/{file}", A) for file in files)
    return LockedPackage("tide-tables", "2.0", (A,), "", wheels=wheels)


def test_the_most_particular_wheel_that_fits_is_taken() -> None:
    tag = next(iter(sys_tags()))
    own = f"tide_tables-2.0-{tag}.whl"
    found = best_wheel(package("tide_tables-2.0-py3-none-any.whl", own))
    assert found is not None
    assert (found.name, found.version, found.file) == ("tide-tables", "2.0", own)
    assert found.location == f"{BASE}/{own}"


@pytest.mark.parametrize(
    "file",
    [
        "tide_tables-2.0-cp27-cp27m-win_amd64.whl",
        "tide_tables-2.0-py3-none-plan9.whl",
        "no wheel at all.whl",
        "tide_tables-2.0.tar.gz",
    ],
)
def test_what_does_not_fit_is_passed_over(file: str) -> None:
    assert best_wheel(package(file)) is None
    assert best_wheel(package(file, "tide_tables-2.0-py3-none-any.whl")) is not None


def test_a_name_with_escapes_is_read() -> None:
    found = best_wheel(package("tide_tables-2.0%2Blocal-py3-none-any.whl"))
    assert found is not None
    assert found.version == "2.0+local"


LOCK = f"""
lock-version = "1.0"
created-by = "uv"
[[packages]]
name = "flood"
version = "1.0"
vcs = {{ type = "git", url = "https://example.org/flood", commit-id = "{"0" * 40}" }}
[[packages]]
name = "tide-tables"
version = "2.0"
wheels = [{{ url = "{BASE}/tide_tables-2.0-py3-none-any.whl", hashes = {{ sha256 = "{B}" }} }}]
"""
BUILT = f"""
[[tool.dissmodel-platform.wheels]]
name = "Flood"
file = "flood-1.0-py3-none-any.whl"
sha256 = "{C}"
"""


def test_what_was_built_stands_in_for_its_source(tmp_path: Path) -> None:
    chosen = choose_wheels(Lock.parse(LOCK + BUILT), tmp_path)
    assert [(wheel.name, wheel.sha256) for wheel in chosen] == [("flood", C), ("tide-tables", B)]
    assert chosen[0].location == str(tmp_path / C / "flood-1.0-py3-none-any.whl")
    installed = tomllib.loads(pylock_of(chosen))
    assert [list(entry) for entry in installed["packages"]] == [["name", "version", "wheels"]] * 2
    assert installed["packages"][0]["wheels"] == [
        {"path": chosen[0].location, "hashes": {"sha256": C}}
    ]
    assert installed["packages"][1]["wheels"][0]["url"].startswith(BASE)


def test_a_package_without_any_wheel_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"flood 1\.0 has no wheel for this machine"):
        choose_wheels(Lock.parse(LOCK), tmp_path)
