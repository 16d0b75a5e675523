"""What the environments of a machine take on its disk, each file counted once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dissmodel_platform.environments.layout import Layout
from dissmodel_platform.environments.leases import is_leased
from dissmodel_platform.environments.seals import MARKER, damage, read_marker

Sizes = Mapping[tuple[int, int], int]
"""Bytes on the disk of each file, by device and inode: a file with two names counts once."""


@dataclass(frozen=True)
class Installed:
    """One environment of this machine.

    Attributes
    ----------
    key : str
        Name of its content.
    directory : Path
        Where it lies.
    marker : mapping
        What it says of itself.
    last_used : float
        POSIX time, exact to a minute.
    parts : frozenset of Path
        Itself, its libraries and its bytecode.
    """

    key: str
    directory: Path
    marker: Mapping[str, Any]
    last_used: float
    parts: frozenset[Path]

    @property
    def wheels(self) -> Mapping[str, str]:
        """SHA-256 of each of its wheels, by the distribution's name."""
        wheels: Mapping[str, str] = self.marker.get("wheels", {})
        return wheels


def installed(layout: Layout) -> list[Installed]:
    """Return the environments of a machine, the one first that was used longest ago.

    What has no marker is among them: nobody can use it.
    """
    found = []
    for directory in _entries(layout.environments):
        with suppress(FileNotFoundError):
            marker = read_marker(directory)
            mark = directory if marker is None else directory / MARKER
            last_used = mark.stat().st_mtime
            content = marker or {}
            parts = {directory}
            if content.get("libraries"):
                parts.add(layout.libraries / content["libraries"])
            digests = tuple(f"{sha256}-" for sha256 in content.get("wheels", {}).values())
            if digests:
                names = (path for path in _entries(layout.bytecode))
                parts |= {path for path in names if path.name.startswith(digests)}
            found.append(Installed(directory.name, directory, content, last_used, frozenset(parts)))
    return sorted(found, key=lambda entry: (entry.last_used, entry.key))


def damaged_files(layout: Layout, entry: Installed) -> list[str]:
    """Look at all files of an environment; returns those that are not as they were installed.

    Paths start at the store.
    """
    found = [
        f"{part.relative_to(layout.directory)}/{name}"
        for part in sorted(entry.parts)
        for name in damage(part)
    ]
    compiled = {part.name.partition("-")[0] for part in entry.parts}
    missing = sorted(sha256 for sha256 in entry.wheels.values() if sha256 not in compiled)
    return found + [f"bytecode/{sha256}" for sha256 in missing]


def unnamed(layout: Layout) -> list[Path]:
    """Return the libraries, bytecode and built wheels that no environment names."""
    environments = installed(layout)
    named = {part for entry in environments for part in entry.parts}
    named |= {layout.wheels / sha256 for entry in environments for sha256 in entry.wheels.values()}
    named.add(layout.bytecode / "scratch")
    places = (layout.libraries, layout.bytecode, layout.wheels)
    return [path for place in places for path in _entries(place) if path not in named]


@dataclass
class Survey:
    """Sizes of all that a store holds.

    Attributes
    ----------
    layout : Layout
        The store.
    parts : dict
        Sizes of the files of each environment, layer of libraries, wheel's bytecode and wheel.
    cache : dict
        Those of the package cache.
    """

    layout: Layout
    parts: dict[Path, Sizes] = field(default_factory=dict)
    cache: Sizes = field(default_factory=dict)

    @classmethod
    def take(cls, layout: Layout) -> Survey:
        """Look at every file of a store."""
        places = (layout.environments, layout.libraries, layout.bytecode, layout.wheels)
        parts: dict[Path, Sizes] = {
            path: sizes(path) for place in places for path in _entries(place)
        }
        return cls(layout, parts, sizes(layout.cache))

    @property
    def idle_bytes(self) -> int:
        """What only the package cache holds."""
        used = {file for files in self.parts.values() for file in files}
        return sum(size for file, size in self.cache.items() if file not in used)

    @property
    def total_bytes(self) -> int:
        """What everything takes together."""
        return _together([*self.parts.values(), self.cache])

    def size_bytes(self, parts: Iterable[Path]) -> int:
        """Return what some parts take together."""
        return _together(self.parts.get(part, {}) for part in parts)

    def own_bytes(self, entry: Installed, environments: Iterable[Installed]) -> int:
        """Return what an environment takes that no other one uses."""
        users = Counter(part for other in environments for part in other.parts)
        own = [part for part in entry.parts if users[part] == 1]
        others = {
            file
            for part, files in self.parts.items()
            if part not in own and users[part]
            for file in files
        }
        files = {file: size for part in own for file, size in self.parts.get(part, {}).items()}
        return sum(size for file, size in files.items() if file not in others)

    def without(self, parts: Iterable[Path]) -> Survey:
        """Return what a removal leaves, with what the cache holds of these parts only."""
        gone = set(parts)
        kept = {path: files for path, files in self.parts.items() if path not in gone}
        used = {file for files in kept.values() for file in files}
        lost = {file for path in gone for file in self.parts.get(path, {}) if file not in used}
        cache = {file: size for file, size in self.cache.items() if file not in lost}
        return Survey(self.layout, kept, cache)


def sizes(directory: Path) -> dict[tuple[int, int], int]:
    """Return what each file below a directory takes on the disk."""
    found = {}
    pending = [os.fspath(directory)]
    while pending:
        place = pending.pop()
        with suppress(OSError):
            stat = os.lstat(place)
            found[(stat.st_dev, stat.st_ino)] = stat.st_blocks * 512
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        stat = entry.stat(follow_symlinks=False)
                        found[(stat.st_dev, stat.st_ino)] = stat.st_blocks * 512
    return found


def in_use(layout: Layout, key: str) -> bool:
    """Say whether a run or a preloaded process of an environment lives."""
    return is_leased(layout.lease(key))


def _together(parts: Iterable[Sizes]) -> int:
    files: dict[tuple[int, int], int] = {}
    for part in parts:
        files.update(part)
    return sum(files.values())


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
