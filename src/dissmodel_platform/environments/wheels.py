"""Which wheel of each locked package fits this machine, and where it comes from."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from dissmodel_platform.environments.lock import Lock, LockedPackage
from dissmodel_platform.errors import BuildFailed
from dissmodel_platform.types import Sha256


@dataclass(frozen=True)
class Wheel:
    """One wheel that is to be installed.

    Attributes
    ----------
    name, version : str
        The distribution, its name as packaging normalises it.
    file : str
        The wheel's file name.
    sha256 : str
        Of its bytes.
    location : str
        Its address, or its path on this machine.
    """

    name: str
    version: str
    file: str
    sha256: Sha256
    location: str

    def as_toml(self) -> str:
        """Return the wheel as the one way to install its package (PEP 751)."""
        key = "url" if "://" in self.location else "path"
        return (
            f"[[packages]]\nname = {json.dumps(self.name)}\nversion = {json.dumps(self.version)}\n"
            f"wheels = [{{ {key} = {json.dumps(self.location)}, "
            f"hashes = {{ sha256 = {json.dumps(self.sha256)} }} }}]\n"
        )


def choose_wheels(lock: Lock, wheels_directory: Path) -> list[Wheel]:
    """Choose the wheel of each package of a lock.

    Parameters
    ----------
    lock : Lock
        Made on this kind of machine.
    wheels_directory : Path
        Where the wheels lie that were built when the lock was made (see `built_wheel_path`).

    Raises
    ------
    BuildFailed
        A package has no wheel for this machine.
    """
    built = {canonicalize_name(wheel.name): wheel for wheel in lock.built}
    chosen = []
    for wheel in lock.built:
        path = built_wheel_path(wheels_directory, wheel.sha256, wheel.file)
        chosen.append(_wheel(wheel.file, wheel.sha256, str(path)))
    for package in lock.packages:
        if canonicalize_name(package.name) not in built:
            fitting = best_wheel(package)
            if fitting is None:
                raise BuildFailed(
                    f"{package.name} {package.version} has no wheel for this machine, and none was "
                    "built when the model was locked."
                )
            chosen.append(fitting)
    return chosen


def best_wheel(package: LockedPackage) -> Wheel | None:
    """Return the wheel of a package that suits this interpreter best, if any does."""
    ranks = _ranks()
    best: tuple[int, Wheel] | None = None
    for location, sha256 in package.wheels:
        file = unquote(urlsplit(location).path.rpartition("/")[2])
        try:
            tags = parse_wheel_filename(file)[3]
        except InvalidWheelFilename:
            continue
        rank = min((ranks[tag] for tag in tags if tag in ranks), default=None)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, _wheel(file, Sha256(sha256), location))
    return best[1] if best else None


def built_wheel_path(wheels_directory: Path, sha256: Sha256, file: str) -> Path:
    """Return where a wheel of that content lies on this machine."""
    return wheels_directory / sha256 / file


def pylock_of(wheels: Iterable[Wheel]) -> str:
    """Return a lock file that holds these wheels and nothing else."""
    heads = 'lock-version = "1.0"\ncreated-by = "dissmodel-platform"\n'
    return "\n".join([heads, *(wheel.as_toml() for wheel in wheels)])


def _wheel(file: str, sha256: Sha256, location: str) -> Wheel:
    name, version, _, _ = parse_wheel_filename(file)
    return Wheel(name, str(version), file, sha256, location)


@functools.cache
def _ranks() -> dict[Tag, int]:
    """Return the tags that this interpreter takes; the smaller the number, the better."""
    return {tag: rank for rank, tag in enumerate(sys_tags())}
