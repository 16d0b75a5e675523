"""What differs between two locks, package by package."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.utils import canonicalize_name

from dissmodel_platform.environments.lock import Lock, LockedPackage


@dataclass(frozen=True)
class PackageChange:
    """One package that both locks have, and not the same of it.

    Attributes
    ----------
    before, after : LockedPackage
        They may be of one version: a release that got other files, or a source that moved.
    """

    before: LockedPackage
    after: LockedPackage


@dataclass(frozen=True)
class LockChanges:
    """What a new lock brings, by the packages' names.

    Attributes
    ----------
    added, removed : tuple of LockedPackage
        Packages that one of the locks has only.
    changed : tuple of PackageChange
        Packages whose version, source, commit or files differ.
    """

    added: tuple[LockedPackage, ...] = ()
    removed: tuple[LockedPackage, ...] = ()
    changed: tuple[PackageChange, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether both locks hold the same packages."""
        return not (self.added or self.removed or self.changed)


def changes_between(old: Lock | None, new: Lock) -> LockChanges:
    """Compare two locks; where their files lie, and which wheels were built for them, is no change.

    Parameters
    ----------
    old : Lock or None
        ``None``: every package is added.
    """
    before = _by_name(old) if old is not None else {}
    after = _by_name(new)
    return LockChanges(
        added=tuple(after[name] for name in sorted(after.keys() - before.keys())),
        removed=tuple(before[name] for name in sorted(before.keys() - after.keys())),
        changed=tuple(
            PackageChange(before[name], after[name])
            for name in sorted(before.keys() & after.keys())
            if _content(before[name]) != _content(after[name])
        ),
    )


def _by_name(lock: Lock) -> dict[str, LockedPackage]:
    return {canonicalize_name(package.name): package for package in lock.packages}


def _content(package: LockedPackage) -> tuple[object, ...]:
    return (
        package.version,
        package.hashes,
        package.commit,
        package.source,
        package.subdirectory,
    )
