"""Resolve once, then lock: every package with its hashes, every git source with its commit."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from dissmodel_platform.environments.failures import explain
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.uv import Uv
from dissmodel_platform.types import EnvironmentKey, Sha256


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
    """

    name: str
    version: str
    hashes: tuple[str, ...]
    commit: str
    source: str = ""
    subdirectory: str = ""


@dataclass(frozen=True)
class Lock:
    """The answer to a request: a standard lock file (PEP 751) and what it says.

    Attributes
    ----------
    text : str
        The ``pylock.toml``.
    packages : tuple of LockedPackage
        In the order of the file.
    """

    text: str
    packages: tuple[LockedPackage, ...]

    @classmethod
    def parse(cls, text: str) -> Lock:
        """Read a ``pylock.toml``."""
        return cls(text, tuple(_package(entry) for entry in tomllib.loads(text)["packages"]))

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
        there = [p for p in self.packages if p.source and address.startswith(p.source)]
        exactly = [p for p in there if p.subdirectory == subdirectory]
        others = [p for p in self.packages if p.commit]
        return next(iter(exactly + there + others), None)


def resolve(uv: Uv, request: PackageRequest) -> Lock:
    """Make the lock that answers a request.

    Raises
    ------
    EnvironmentBuildError
        One of its kinds, with a sentence that names the package and the cause.
    """
    with tempfile.TemporaryDirectory(prefix="resolve-") as scratch:
        directory = Path(scratch)
        (directory / "requirements.in").write_text("\n".join(request.requirements) + "\n")
        sources = ["requirements.in"]
        if request.tree is not None:
            sources.append(str(request.tree.project_file()))
        result = uv.run(
            [
                "pip", "compile", *sources,
                "--format", "pylock.toml", "--output-file", "pylock.toml",
                "--python", sys.executable, "--python-version", request.python,
                "--no-header", "--no-annotate", "--quiet",
            ],
            cwd=directory,
        )  # fmt: skip
        if result.exit_code != 0:
            raise explain(request.label, result.output_tail)
        return Lock.parse((directory / "pylock.toml").read_text())


def environment_key(lock: Lock, request: PackageRequest) -> EnvironmentKey:
    """Name the content of the environment that a lock makes on this kind of machine.

    Two requests with the same packages, Python minor version, platform and local tree get the same
    key, whatever their lock files' layout.
    """
    options: dict[str, Any] = {"bytecode": True}
    if request.tree is not None:
        tree = request.tree
        options["tree"] = str(tree.path) if tree.editable else tree.digest()
        options["editable"] = tree.editable
        options["project"] = tree.project_digest()
    content = {
        "packages": sorted([p.name, p.version, list(p.hashes), p.commit] for p in lock.packages),
        "python": request.python,
        "platform": sysconfig.get_platform(),
        "implementation": sys.implementation.cache_tag,
        "options": options,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return EnvironmentKey(hashlib.sha256(canonical.encode()).hexdigest())


def _package(entry: Mapping[str, Any]) -> LockedPackage:
    files = [entry.get("sdist"), entry.get("archive"), *entry.get("wheels", ())]
    hashes = {file["hashes"]["sha256"] for file in files if file and "sha256" in file["hashes"]}
    origin = entry.get("vcs") or entry.get("archive") or {}
    return LockedPackage(
        name=entry["name"],
        version=str(entry.get("version", "")),
        hashes=tuple(sorted(hashes)),
        commit=str(origin.get("commit-id", "")),
        source=str(origin.get("url", "")),
        subdirectory=str(origin.get("subdirectory", "")),
    )


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
