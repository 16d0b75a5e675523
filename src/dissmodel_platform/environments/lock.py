"""Resolve once, then lock: every package with its hashes, every git source with its commit."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from packaging.utils import parse_wheel_filename

from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.types import EnvironmentKey, Sha256

_TOOL = "dissmodel-platform"
_LAYOUT = 2  # of environments: part of their keys, so that older ones are not taken for these


@dataclass(frozen=True)
class LockedPackage:
    """One package of a lock.

    Attributes
    ----------
    name, version : str
        As locked; the version of a git source may be empty.
    hashes : tuple of str
        SHA-256 of each file that may be installed, sorted.
    commit : str
        Full commit id of a git source, else empty.
    source : str
        Address of the git repository or of the one file, else empty.
    subdirectory : str
        Where the project lies in that repository, else empty.
    wheels : tuple of (str, str)
        Address and SHA-256 of each wheel.
    sdist : (str, str) or None
        Address and SHA-256 of the source distribution.
    """

    name: str
    version: str
    hashes: tuple[str, ...]
    commit: str
    source: str = ""
    subdirectory: str = ""
    wheels: tuple[tuple[str, str], ...] = ()
    sdist: tuple[str, str] | None = None


@dataclass(frozen=True)
class BuiltWheel:
    """A wheel that was built from a source when the lock was made.

    Attributes
    ----------
    name : str
        The distribution.
    file : str
        The wheel's file name.
    sha256 : str
        Of its bytes, which are in the object store.
    """

    name: str
    file: str
    sha256: Sha256


@dataclass(frozen=True)
class Lock:
    """The answer to a request: a standard lock file (PEP 751) and what it says.

    Attributes
    ----------
    text : str
        The ``pylock.toml``.
    packages : tuple of LockedPackage
        In the order of the file.
    built : tuple of BuiltWheel
        What is installed in place of the packages that have no wheel of their own.
    """

    text: str
    packages: tuple[LockedPackage, ...]
    built: tuple[BuiltWheel, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Lock:
        """Read a ``pylock.toml``.

        Raises
        ------
        ValueError
            It is no TOML, or names a wheel that was built in a way that could not be a file's name.
        """
        content = tomllib.loads(text)
        packages = tuple(_package(entry) for entry in content.get("packages", ()))
        ours = content.get("tool", {}).get(_TOOL, {}).get("wheels", ())
        built = (_built_wheel(wheel) for wheel in ours)
        return cls(text, packages, tuple(built))

    def with_built(self, wheels: Iterable[BuiltWheel]) -> Lock:
        """Return this lock with further wheels that were built, in the tool's own tables."""
        tables = [
            f"[[tool.{_TOOL}.wheels]]\nname = {json.dumps(wheel.name)}\n"
            f"file = {json.dumps(wheel.file)}\nsha256 = {json.dumps(wheel.sha256)}\n"
            for wheel in wheels
        ]
        return Lock.parse(
            "\n".join([self.text.rstrip("\n") + "\n", *tables]) if tables else self.text
        )

    @property
    def sha256(self) -> Sha256:
        """SHA-256 of the lock's text."""
        return Sha256(hashlib.sha256(self.text.encode()).hexdigest())

    def find(self, distribution: str) -> LockedPackage | None:
        """Return the entry of a distribution, names compared as packaging does."""
        wanted = _normalised(distribution)
        return next((p for p in self.packages if _normalised(p.name) == wanted), None)

    def model_package(self, request: PackageRequest) -> LockedPackage | None:
        """Return the model's own package: by the request's name, else by its address."""
        if request.distribution:
            return self.find(request.distribution)
        address, _, fragment = request.package.removeprefix("git+").partition("#")
        subdirectory = dict(parse_qsl(fragment)).get("subdirectory", "")
        asked = _without_user(address)
        there = [p for p in self.packages if p.source and asked.startswith(_without_user(p.source))]
        there.sort(key=lambda p: len(p.source), reverse=True)  # …/flood-model is also at …/flood
        exactly = [p for p in there if p.subdirectory == subdirectory]
        others = [p for p in self.packages if p.commit]
        return next(iter(exactly + there + others), None)


def environment_key(lock: Lock, request: PackageRequest) -> EnvironmentKey:
    """Name the content of the environment that a lock makes on this kind of machine.

    Two requests with the same packages, Python minor version, platform and local tree get the same
    key, whatever their lock files' layout.
    """
    options: dict[str, Any] = {"layout": _LAYOUT}
    if request.tree is not None and request.tree.editable:
        options["editable"] = str(request.tree.path)
        options["project"] = request.tree.project_digest()
    content = {
        "packages": sorted([p.name, p.version, list(p.hashes), p.commit] for p in lock.packages),
        "built": sorted([wheel.name, wheel.sha256] for wheel in lock.built),
        "python": request.python,
        "platform": sysconfig.get_platform(),
        "implementation": sys.implementation.cache_tag,
        "options": options,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return EnvironmentKey(hashlib.sha256(canonical.encode()).hexdigest())


def _package(entry: Mapping[str, Any]) -> LockedPackage:
    archive = entry.get("archive")
    origin = entry.get("vcs") or archive or {}
    wheels = [_file(wheel) for wheel in entry.get("wheels", ())]
    sdist = _file(entry["sdist"]) if "sdist" in entry else None
    if archive and _file(archive)[0].endswith(".whl"):
        wheels.append(_file(archive))
    elif archive:
        sdist = _file(archive)
    files = [file for file in (sdist, *wheels) if file is not None]
    return LockedPackage(
        name=entry["name"],
        version=str(entry.get("version", "")),
        hashes=tuple(sorted({sha256 for _, sha256 in files if sha256})),
        commit=str(origin.get("commit-id", "")),
        source=str(origin.get("url", "")),
        subdirectory=str(origin.get("subdirectory", "")),
        wheels=tuple(file for file in wheels if file[1]),
        sdist=sdist,
    )


def _built_wheel(entry: Mapping[str, Any]) -> BuiltWheel:
    """Read an entry of the tool's own table; it becomes a path, so it must not be one already."""
    name, file, sha256 = (str(entry[key]) for key in ("name", "file", "sha256"))
    parse_wheel_filename(file)
    if "/" in file or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"{file!r} with hash {sha256!r} cannot be a wheel")
    return BuiltWheel(name, file, Sha256(sha256))


def _file(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return the address or path of a file of a lock, and its SHA-256, which may be empty."""
    address = str(entry.get("url") or entry.get("path", ""))
    return address.partition("#")[0], str(entry.get("hashes", {}).get("sha256", ""))


def _without_user(address: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", address)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
