"""Bytecode, compiled once for each wheel on this machine and shared by all environments.

A package's ``__pycache__`` is a link into the store, so an environment gets the bytecode of fifty
packages for a few hundred links, and it takes no room. Which wheel a module belongs to is known by
the hash in the lock; a module that two wheels claim stays without bytecode. A wheel is compiled
where it is installed by itself: among others, one of them could have put its own text in the place
of this one's, and would run wherever this one is installed.

The store holds, for each wheel, ``modules.json`` (the modules of each of its directories), the
bytecode of one directory after the other in ``0``, ``1``, …, and a symbolic link to each in
``0.link``, ``1.link``, …. Environments have further names (hard links) of these links: a name costs
a twentieth of a file of its own.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import cache_from_source
from pathlib import Path

from dissmodel_platform.environments.compile_wheel import NO_ROOM
from dissmodel_platform.environments.scratch import replace_directory, scratch_directory
from dissmodel_platform.environments.seals import Seals, records_of, seal
from dissmodel_platform.environments.uv import PYTHON
from dissmodel_platform.environments.wheels import Wheel
from dissmodel_platform.environments.workshop import Room, Workshop

Modules = Mapping[str, Sequence[str]]
"""Names of the modules' files in each directory of a wheel, which is relative to its root."""

Unpack = Callable[[Wheel, Path], Path]
"""Installs one wheel in a scratch directory, by itself, and returns its ``site-packages``."""

_COMPILE = Path(__file__).with_name("compile_wheel.py").resolve()
_CACHE = "__pycache__"
_MODULES = "modules.json"
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
    seals : Seals
        Which of it is known to be whole.
    """

    directory: Path
    workshop: Workshop
    seals: Seals = field(default_factory=Seals)

    @property
    def scratch(self) -> Path:
        """Where modules are compiled before they are put in place."""
        return self.directory / "scratch"

    def link(self, site: Path, wheels: Sequence[Wheel], unpack: Unpack) -> None:
        """Give an environment the bytecode of its wheels, compiling what nobody compiled yet.

        Parameters
        ----------
        site : Path
            The ``site-packages`` of an environment.
        wheels : sequence of Wheel
            What was installed there.
        unpack : callable
            For the wheels that have to be compiled, where there are several.

        Raises
        ------
        EnvironmentBuildError
            A wheel cannot be installed by itself.
        BuildInterrupted
            The worker is being stopped.
        OSError
            The disk refuses.
        """
        if not wheels:
            return
        alone = site if len(wheels) == 1 else None
        with ThreadPoolExecutor(min(_MAX_AT_ONCE, os.cpu_count() or 1)) as threads:
            modules = dict(
                zip(
                    wheels,
                    threads.map(lambda wheel: self._modules(wheel, alone, unpack), wheels),
                    strict=True,
                )
            )
        sharing = Counter(place for places in modules.values() for place in places)
        claims = Counter(
            (place, name)
            for places in modules.values()
            for place, names in places.items()
            if sharing[place] > 1
            for name in names
        )
        for wheel, places in modules.items():
            store = self.path(wheel.sha256)
            for index, (place, names) in enumerate(places.items()):
                cache = site / place / _CACHE
                if sharing[place] == 1 and _name_again(store / f"{index}.link", cache):
                    continue
                own = [name for name in names if claims[place, name] <= 1]
                _link_files(store / str(index), cache, own)

    def path(self, sha256: str) -> Path:
        """Return where the bytecode of a wheel lies."""
        return self.directory / f"{sha256}-{sys.implementation.cache_tag}"

    def is_whole(self, sha256: str) -> bool:
        """Say whether the bytecode of a wheel is here and as it was compiled."""
        return self.seals.is_whole(self.path(sha256))

    def _modules(self, wheel: Wheel, alone: Path | None, unpack: Unpack) -> Modules:
        """Return the modules of a wheel, which are compiled then."""
        if self.is_whole(wheel.sha256):
            known = self.path(wheel.sha256) / _MODULES
            found: Modules = json.loads(known.read_text(encoding="utf-8"))
            return found
        with scratch_directory(self.scratch) as scratch:
            return self._compile(wheel, alone or unpack(wheel, scratch), scratch)

    def _compile(self, wheel: Wheel, site: Path, scratch: Path) -> Modules:
        """Compile what is there; a module that ends the compiler costs the wheel its bytecode."""
        records = records_of(site)
        modules = _listed(records[wheel.name], site) if wheel.name in records else {}
        listed = scratch / _MODULES
        listed.write_text(json.dumps(modules), encoding="utf-8")
        out = scratch / "out"
        out.mkdir()
        command = [PYTHON, "-I", "-S", str(_COMPILE), str(site), _MODULES, "out"]
        done = self.workshop.run(command, Room(scratch, readable=(site, _COMPILE)), {})
        if done.exit_code in NO_ROOM:  # what is sealed now would have no bytecode for ever
            raise OSError(done.exit_code, os.strerror(done.exit_code), str(scratch))
        _keep_bytecode_only(out, len(modules))
        for index in range(len(modules)):
            (out / str(index)).mkdir(exist_ok=True)
            (out / f"{index}.link").symlink_to(self.path(wheel.sha256) / str(index))
        (out / _MODULES).write_text(json.dumps(modules), encoding="utf-8")
        # what a package compiles at run time (Numba) goes to the same directories
        seal(out, {"wheel": wheel.sha256, "grows": True}, place=self.path(wheel.sha256))
        if not self.is_whole(wheel.sha256):
            replace_directory(self.path(wheel.sha256), out, scratch)
        return modules


def _name_again(link: Path, name: Path) -> bool:
    """Give a symbolic link another name; ``False``: the name is taken."""
    try:
        os.link(link, name, follow_symlinks=False)
    except FileExistsError:
        return False
    except (OSError, NotImplementedError):  # too many names, or a system without such links
        name.symlink_to(link.readlink())
    return True


def _link_files(compiled: Path, cache: Path, names: Sequence[str]) -> None:
    """Link the bytecode of single modules into a directory that is not one wheel's alone."""
    cache.mkdir(exist_ok=True)
    for name in names:
        file = Path(cache_from_source(name)).name
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            os.link(compiled / file, cache / file)


def _listed(record: Path, site: Path) -> dict[str, list[str]]:
    """Return the modules that an installed wheel brought, from its own record as far as it goes."""
    found: dict[str, list[str]] = {}
    with (
        contextlib.suppress(ValueError, csv.Error),
        record.open(encoding="utf-8", newline="") as opened,
    ):
        for row in csv.reader(opened):
            place, _, name = row[0].rpartition("/") if row else ("", "", "")
            is_inside = not place.startswith("/") and ".." not in place.split("/")
            if name.endswith(".py") and is_inside and (site / place / name).is_file():
                found.setdefault(place, []).append(name)
    return found


def _keep_bytecode_only(out: Path, count: int) -> None:
    """Remove what is not bytecode in its place: this was made behind walls."""
    expected = {str(index) for index in range(count)}
    for place, directories, files in os.walk(out, topdown=False):
        below = Path(place).relative_to(out).parts
        for name in [*directories, *files]:
            path = Path(place, name)
            is_place = not below and name in expected and path.is_dir()
            is_bytecode = len(below) == 1 and name.endswith(".pyc") and path.is_file()
            if path.is_symlink() or not (is_place or is_bytecode):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
