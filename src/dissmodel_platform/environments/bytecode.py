"""Bytecode, compiled once for each wheel on this machine and shared by all environments.

A package's ``__pycache__`` is a link into the store, so an environment gets the bytecode of fifty
packages for a few hundred links, and it takes no room. Which wheel a module belongs to is known by
the hash in the lock; a module that two wheels claim stays without bytecode.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from dissmodel_platform.environments.scratch import scratch_directory
from dissmodel_platform.environments.uv import PYTHON
from dissmodel_platform.environments.wheels import Wheel
from dissmodel_platform.environments.workshop import Room, Workshop

_COMPILE = Path(__file__).with_name("compile_wheel.py").resolve()
_CACHE = "__pycache__"
_MAX_AT_ONCE = 4


@dataclass(frozen=True)
class BytecodeStore:
    """The compiled modules of the wheels that were installed on this machine.

    Attributes
    ----------
    directory : Path
        On the file system of the environments.
    workshop : Workshop
        Where modules are compiled.
    """

    directory: Path
    workshop: Workshop

    def link(self, site: Path, wheels: Sequence[Wheel]) -> None:
        """Give an environment the bytecode of its wheels, compiling what nobody compiled yet.

        Parameters
        ----------
        site : Path
            Its ``site-packages``.
        wheels : sequence of Wheel
            What was installed there.

        Raises
        ------
        BuildInterrupted
            The worker is being stopped.
        OSError
            The disk refuses.
        """
        modules = _modules(site, wheels)
        claims = Counter(name for names in modules.values() for name in names)
        owned = {
            wheel: [name for name in names if claims[name] == 1] for wheel, names in modules.items()
        }
        missing = [wheel for wheel in owned if not self.path(wheel.sha256).is_dir()]
        with ThreadPoolExecutor(min(_MAX_AT_ONCE, os.cpu_count() or 1)) as threads:
            for _ in threads.map(lambda wheel: self._compile(site, wheel, owned[wheel]), missing):
                pass
        places: dict[PurePosixPath, set[Wheel]] = defaultdict(set)
        for wheel, names in modules.items():
            for name in names:
                places[PurePosixPath(name).parent].add(wheel)
        for place, sharing in places.items():
            self._link_directory(site, place, {wheel: owned[wheel] for wheel in sharing})

    def path(self, sha256: str) -> Path:
        """Return where the bytecode of a wheel lies."""
        return self.directory / f"{sha256}-{sys.implementation.cache_tag}"

    def _compile(self, site: Path, wheel: Wheel, names: list[str]) -> None:
        with scratch_directory(self.directory / "scratch") as scratch:
            (scratch / "modules.json").write_text(json.dumps(names))
            out = scratch / "out"
            out.mkdir()
            command = [PYTHON, "-I", "-S", str(_COMPILE), str(site), "modules.json", "out"]
            room = Room(scratch, readable=(site, _COMPILE))
            self.workshop.run(command, room, {})  # one that a module ends compiles the others
            _keep_bytecode_only(out)
            if not self.path(wheel.sha256).exists():
                out.rename(self.path(wheel.sha256))

    def _link_directory(
        self, site: Path, place: PurePosixPath, owned: Mapping[Wheel, Sequence[str]]
    ) -> None:
        """Link one directory as a whole if it is one wheel's, else file by file."""
        cache = site / place / _CACHE
        if len(owned) == 1 and not cache.exists():
            (wheel,) = owned
            store = self.path(wheel.sha256) / place / _CACHE
            if store.is_dir():
                cache.symlink_to(store)
            return
        cache.mkdir(exist_ok=True)
        for wheel, names in owned.items():
            for name in names:
                if PurePosixPath(name).parent == place:
                    compiled = cache_from_source(name)
                    with contextlib.suppress(FileNotFoundError, FileExistsError):
                        os.link(self.path(wheel.sha256) / compiled, site / compiled)


def _modules(site: Path, wheels: Sequence[Wheel]) -> dict[Wheel, list[str]]:
    """Return the modules that each installed wheel brought, from its own record."""
    records = {
        canonicalize_name(info.name.partition("-")[0]): info / "RECORD"
        for info in site.glob("*.dist-info")
    }
    found = {}
    for wheel in wheels:
        record = records.get(canonicalize_name(wheel.name))
        if record is not None and record.is_file():
            found[wheel] = _listed(record, site)
    return found


def _listed(record: Path, site: Path) -> list[str]:
    with record.open(encoding="utf-8", newline="") as opened:
        names = [row[0] for row in csv.reader(opened) if row]
    return [
        name
        for name in names
        if name.endswith(".py")
        and not name.startswith("/")
        and ".." not in PurePosixPath(name).parts
        and (site / name).is_file()
    ]


def _keep_bytecode_only(out: Path) -> None:
    """Remove what is neither a directory nor a file of bytecode: it was made behind walls."""
    for place, directories, files in os.walk(out):
        for name in [*directories, *files]:
            path = Path(place, name)
            is_bytecode = path.is_file() and path.suffix == ".pyc" and path.parent.name == _CACHE
            if path.is_symlink() or not (path.is_dir() or is_bytecode):
                path.unlink()
