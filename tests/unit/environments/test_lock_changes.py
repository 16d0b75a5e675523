"""What a new lock says that another did not."""

from __future__ import annotations

from dataclasses import replace

from dissmodel_platform.environments.lock import BuiltWheel, Lock, LockedPackage
from dissmodel_platform.environments.lock_changes import PackageChange, changes_between
from dissmodel_platform.types import Sha256

NUMPY = LockedPackage(
    "numpy", "2.0", ("a",), "", wheels=(("https://files.example.org/numpy.whl", "a"),)
)
FLOOD = LockedPackage("coastal-flood", "0.1.0", (), "c0ffee", "https://git.example.org/flood")


def lock(*packages: LockedPackage) -> Lock:
    return Lock("", packages)


def test_packages_that_came_went_and_changed_are_told_apart() -> None:
    newer, tide = replace(NUMPY, version="2.1"), replace(FLOOD, name="tide")
    changes = changes_between(lock(NUMPY, FLOOD), lock(tide, newer))
    assert changes.added == (tide,)
    assert changes.removed == (FLOOD,)
    assert changes.changed == (PackageChange(NUMPY, newer),)
    assert not changes.is_empty


def test_another_commit_or_other_files_of_one_version_are_changes() -> None:
    for other in (
        replace(FLOOD, commit="beef"),
        replace(FLOOD, hashes=("b",)),
        replace(FLOOD, source="https://git.example.org/fork"),
        replace(FLOOD, subdirectory="python"),
    ):
        assert changes_between(lock(FLOOD), lock(other)).changed == (PackageChange(FLOOD, other),)


def test_order_spelling_places_of_files_and_built_wheels_are_no_changes() -> None:
    moved = replace(NUMPY, wheels=(("https://mirror.example.org/numpy.whl", "a"),))
    spelt = replace(FLOOD, name="Coastal_Flood")
    built = BuiltWheel("coastal-flood", "x.whl", Sha256("d"))
    other = replace(lock(spelt, moved), built=(built,), text="# another")
    assert changes_between(lock(NUMPY, FLOOD), other).is_empty


def test_without_an_earlier_lock_every_package_is_added() -> None:
    assert changes_between(None, lock(NUMPY, FLOOD)).added == (FLOOD, NUMPY)
