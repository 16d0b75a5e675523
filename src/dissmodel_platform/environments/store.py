"""The environments of one machine: named by content, built beside, published by one rename.

An environment has two layers. Its libraries, all packages of the lock but the model's own, are one
installation that every model with the same libraries shares (``libraries/``); the environment
itself (``environments/``) holds the model's package and a line that adds the libraries. A new
version of a model therefore costs one small wheel, and a hundred models on the same libraries
little more room than one. Where the model's package has files in a directory of one of its
libraries, which Python would not find in two places, everything is installed in the environment.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout
from packaging.utils import canonicalize_name

from dissmodel_platform.environments.bytecode import BytecodeStore
from dissmodel_platform.environments.collection import Collected, Collector
from dissmodel_platform.environments.install import Installer
from dissmodel_platform.environments.layout import Layout, note_use, site_packages
from dissmodel_platform.environments.leases import Lease
from dissmodel_platform.environments.lock import BuiltWheel, Lock, environment_key
from dissmodel_platform.environments.locking import LockMaker
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.scratch import (
    read_made,
    remove_tree,
    replace_directory,
    scratch_directory,
    sweep,
)
from dissmodel_platform.environments.seals import Seals, read_marker, seal
from dissmodel_platform.environments.slots import build_slot
from dissmodel_platform.environments.uv import Uv
from dissmodel_platform.environments.wheels import (
    Wheel,
    built_wheel_path,
    choose_wheels,
)
from dissmodel_platform.environments.workshop import Room, Workshop
from dissmodel_platform.errors import (
    BuildFailed,
    ContractCheckFailed,
    ExecutorModuleMissing,
)
from dissmodel_platform.types import EnvironmentKey
from dissmodel_platform.untrusted import read_untrusted_json

log = logging.getLogger(__name__)

COMPARISON_SECONDS = 300.0
"""For two maps."""

_LARGEST_REPORT_BYTES = 1024**2
_LOOK_SECONDS = 0.5
_MAX_REPORT_BYTES = 4 * 1024**2
_MAX_FONT_LIST_BYTES = 16 * 1024**2
_LIBRARIES_LINE = "dissmodel-platform-libraries.pth"


@dataclass(frozen=True)
class Environment:
    """A finished environment.

    Attributes
    ----------
    key : EnvironmentKey
        Name of its content.
    directory : Path
        Where it lies on this machine.
    distribution : str
        The model's own package in it.
    parts : tuple of Path
        All that it consists of on this machine: itself, its libraries, their bytecode, and the
        source of an editable package.
    build : str
        Which build of it this is: another one after it was mended.
    lease_file : Path
        What says that it is in use.
    editable : bool
        Whether the source of the model's package may change at any time.
    """

    key: EnvironmentKey
    directory: Path
    distribution: str
    parts: tuple[Path, ...] = ()
    build: str = ""
    lease_file: Path = Path(os.devnull)
    editable: bool = False

    def use(self) -> Lease:
        """Say that the environment is in use; it is not removed until the lease ends."""
        return Lease.shared(self.lease_file)

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.directory / "bin" / "python"


@dataclass(frozen=True)
class Acquired:
    """An environment, and what it cost to get it.

    Attributes
    ----------
    environment : Environment
        Ready to use.
    built : bool
        Whether it had to be built.
    seconds : float
        How long the caller waited.
    parts : dict of str to float
        Seconds of each part of the build: ``wait`` (for others), ``install``, ``bytecode``,
        ``check``.
    """

    environment: Environment
    built: bool
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)


class EnvironmentStore:
    """Builds and finds environments below one directory.

    Parameters
    ----------
    directory : Path
        Holds the environments, the package cache and the locks, on one file system.
    harness : Path
        The harness's entry file, which checks an environment from inside.
    workshop : Workshop
        Where everything runs that is not ours.
    parallel_builds : int, optional
        Locks and environments that are made at the same time on this machine.
    """

    def __init__(
        self, directory: Path, harness: Path, workshop: Workshop, parallel_builds: int = 2
    ) -> None:
        self._parallel_builds = parallel_builds
        self._directory = directory.resolve()
        self.layout = Layout(self._directory)
        self._environments = self.layout.environments
        self._libraries = self.layout.libraries
        self._wheels = self.layout.wheels
        self._locks = self.layout.locks
        self._scratch = self.layout.scratch
        self._harness = harness.parent.resolve()
        self.layout.make()
        self._seals = Seals()
        self._bytecode = BytecodeStore(self.layout.bytecode, workshop, self._seals)
        sweep(self._scratch)
        if self._bytecode.scratch.is_dir():
            sweep(self._bytecode.scratch)
        self.workshop = workshop
        self.uv = Uv(workshop)
        self._installer = Installer(self.uv, self.layout)

    def lock(
        self, request: PackageRequest, accept: Callable[[Lock], None] = lambda _: None
    ) -> Lock:
        """Make the lock that answers a request; the wheels that it needs built are here then.

        Parameters
        ----------
        request : PackageRequest
            What is asked for.
        accept : callable
            Gets what was resolved before anything of it is built, and raises where that shall not
            be.

        Raises
        ------
        EnvironmentBuildError
            One of its kinds, with a sentence that names the package and the cause.
        OSError
            The disk refused.
        """
        self.layout.make()
        with (
            self._slot(),
            scratch_directory(self._scratch) as scratch,
            scratch_directory(self._scratch) as private,
        ):
            return LockMaker(self.uv, request, scratch, self._wheels, accept, private).make()

    def built_wheel(self, wheel: BuiltWheel) -> Path:
        """Return where a wheel lies, or has to be put, that was built for a lock."""
        return built_wheel_path(self._wheels, wheel.sha256, wheel.file)

    def has_wheel(self, wheel: BuiltWheel) -> bool:
        """Say whether a wheel that was built for a lock is here, with the bytes of then."""
        try:
            with self.built_wheel(wheel).open("rb") as opened:
                os.utime(self.built_wheel(wheel).parent)  # wanted now: not to be collected
                return hashlib.file_digest(opened, "sha256").hexdigest() == wheel.sha256
        except FileNotFoundError:
            return False

    def acquire(self, lock: Lock, request: PackageRequest) -> Acquired:
        """Return the environment of a lock, building it if this machine lacks it.

        Two callers that want one key: the second waits and takes the first one's. Callers with
        different keys wait for each other only where they build the same libraries. After this,
        callers can assume that the executor's package imports and fulfils dissmodel's contract.
        One that somebody damaged is built anew.

        Raises
        ------
        EnvironmentBuildError
            One of its kinds, with a sentence that names the package and the cause.
        OSError
            The disk refused.
        """
        begin = time.perf_counter()
        ready = self.find(lock, request)
        if ready is not None:
            return ready
        self.layout.make()
        key = environment_key(lock, request)
        parts: dict[str, float] = {}
        with Lease.shared(self.layout.lease(key)):
            with self._alone(key):
                found = self._find(key)
                environment = found or self._build_in_turn(key, lock, request, parts)
            return Acquired(environment, found is None, time.perf_counter() - begin, parts)

    def find(self, lock: Lock, request: PackageRequest) -> Acquired | None:
        """Return the environment of a lock if this machine has it, undamaged."""
        begin = time.perf_counter()
        key = environment_key(lock, request)
        with Lease.shared(self.layout.lease(key)):
            found = self._find(key)
            if found is None:
                return None
            note_use(found.directory)
            return Acquired(found, built=False, seconds=time.perf_counter() - begin)

    def has(self, lock: Lock, request: PackageRequest) -> bool:
        """Say whether this machine has the environment of a lock, undamaged."""
        return self._find(environment_key(lock, request)) is not None

    def collect(self, max_bytes: int) -> Collected | None:
        """Bring the store below a size, removing what was used longest ago.

        What is in use stays, and what was used within the last minutes.

        Parameters
        ----------
        max_bytes : int
            Size of everything, each file counted once; 0: no limit.

        Returns
        -------
        Collected or None
            What was done; ``None`` where there is no limit or another process does it now.

        Raises
        ------
        BuildInterrupted
            The process is being stopped.
        OSError
            The disk refused.
        """
        if max_bytes == 0:
            return None
        return Collector(
            self.layout, self._installer.tidy_cache, self.workshop.commands.check
        ).collect(max_bytes)

    def forget(self, environment: Environment) -> None:
        """Look at all files of an environment when it is wanted next: a run of it failed."""
        for part in environment.parts:
            self._seals.forget(part)

    def interrupt(self) -> None:
        """End the builds that run now and refuse new ones; for shutting down."""
        self.uv.interrupt()

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Be the only builder of that name on this machine; a stopped worker waits for nobody."""
        lock = FileLock(self._locks / f"{name}.lock")
        while True:
            self.workshop.commands.check()
            try:
                lock.acquire(timeout=_LOOK_SECONDS)
                break
            except Timeout:
                continue
        try:
            yield
        finally:
            lock.release()

    def _find(self, key: EnvironmentKey) -> Environment | None:
        """Return an environment that is here and whole, its libraries and bytecode too."""
        directory = self._environments / key
        marker = read_marker(directory)
        if marker is None or marker.get("key") != key:
            return None
        layers = [directory]
        if marker["libraries"]:
            layers.append(self._libraries / marker["libraries"])
        broken = [path for path in layers if not self._seals.is_whole(path, site_packages(path))]
        for sha256 in marker["wheels"].values():
            if not self._bytecode.is_whole(sha256):
                broken.append(self._bytecode.path(sha256))
        if not (directory / "bin" / "python").exists():  # what it leads to lies outside
            broken.append(directory)
        if broken:
            log.warning("environment %s is damaged: %s", key, ", ".join(map(str, broken)))
            return None
        return self._environment(key, directory, marker)

    def _environment(
        self, key: EnvironmentKey, directory: Path, marker: Mapping[str, Any]
    ) -> Environment:
        parts = [directory, *map(self._bytecode.path, marker["wheels"].values())]
        if marker["libraries"]:
            parts.append(self._libraries / marker["libraries"])
        if marker["editable"]:
            parts.append(Path(marker["editable"]))
        libraries = read_marker(self._libraries / marker["libraries"]) or {}
        build = f"{marker.get('build', '')}-{libraries.get('build', '')}"
        return Environment(
            key,
            directory,
            marker["distribution"],
            tuple(parts),
            build,
            self.layout.lease(key),
            editable=bool(marker["editable"]),
        )

    def _slot(self) -> AbstractContextManager[None]:
        return build_slot(self._locks, self._parallel_builds, self.workshop.commands.check)

    def _build_in_turn(
        self,
        key: EnvironmentKey,
        lock: Lock,
        request: PackageRequest,
        parts: dict[str, float],
    ) -> Environment:
        begin = time.perf_counter()
        with self._slot():
            parts["wait"] = time.perf_counter() - begin
            return self._build(key, lock, request, parts)

    def _build(
        self,
        key: EnvironmentKey,
        lock: Lock,
        request: PackageRequest,
        parts: dict[str, float],
    ) -> Environment:
        """Build beside, check, and publish by renaming; the caller holds the key's lock."""
        final = self._environments / key
        chosen = choose_wheels(lock, self._wheels)
        with Lease.shared(self.layout.building), scratch_directory(self._scratch) as scratch:
            building = scratch / "environment"
            libraries = self._install_in_layers(building, chosen, lock, request, scratch, parts)
            marker = {
                "key": key,
                "package": request.package,
                "distribution": _distribution(building, lock, request),
                "libraries": libraries,
                "editable": str(request.tree.path) if request.tree and request.editable else "",
                "python": request.python,
                "walls": list(self.workshop.walls.builds),
                "wheels": {wheel.name: wheel.sha256 for wheel in chosen},
            }
            with _timed(parts, "check"):
                self._check(self._environment(key, building, marker), request)
            (building / "pylock.toml").write_text(lock.text)
            marker = seal(building, marker, place=final)
            replace_directory(final, building, scratch)
        return self._environment(key, final, marker)

    def _install_in_layers(
        self,
        building: Path,
        chosen: Sequence[Wheel],
        lock: Lock,
        request: PackageRequest,
        scratch: Path,
        parts: dict[str, float],
    ) -> str:
        """Install the model's package, and its libraries below it; returns their layer's name."""
        is_damaged = (self._environments / environment_key(lock, request)).exists()
        own_name = _own_name(lock, request)
        own = [wheel for wheel in chosen if wheel.name == own_name]
        others = [wheel for wheel in chosen if wheel.name != own_name]
        with _timed(parts, "install"):
            self._installer.install(building, own, request, scratch, is_damaged)
            self._installer.install_editable(building, request, scratch)
        name = _layer_name(others)
        layer = self._libraries / name
        if not self._is_layer_whole(layer, others):
            with self._alone(name):
                if not self._is_layer_whole(layer, others):
                    self._build_layer(layer, others, request, parts)
        if _overlap(site_packages(building), site_packages(layer)):
            remove_tree(building)
            with _timed(parts, "install"):
                self._installer.install(building, chosen, request, scratch, is_damaged)
                self._installer.install_editable(building, request, scratch)
            with _timed(parts, "bytecode"):
                self._link_bytecode(building, chosen, request)
            return ""
        line = f"import site; site.addsitedir({str(site_packages(layer))!r})\n"
        (site_packages(building) / _LIBRARIES_LINE).write_text(line)
        with _timed(parts, "bytecode"):
            self._link_bytecode(building, own, request)
        return name

    def _is_layer_whole(self, layer: Path, wheels: Sequence[Wheel]) -> bool:
        is_whole = self._seals.is_whole(layer, site_packages(layer))
        return is_whole and all(self._bytecode.is_whole(wheel.sha256) for wheel in wheels)

    def _build_layer(
        self,
        layer: Path,
        wheels: Sequence[Wheel],
        request: PackageRequest,
        parts: dict[str, float],
    ) -> None:
        is_damaged = layer.exists()
        with scratch_directory(self._scratch) as scratch:
            building = scratch / "libraries"
            with _timed(parts, "install"):
                self._installer.install(building, wheels, request, scratch, is_damaged)
            with _timed(parts, "bytecode"):
                self._link_bytecode(building, wheels, request)
            seal(building, {"wheels": {w.name: w.sha256 for w in wheels}}, place=layer)
            replace_directory(layer, building, scratch)

    def _link_bytecode(
        self, directory: Path, wheels: Sequence[Wheel], request: PackageRequest
    ) -> None:
        def unpack(wheel: Wheel, scratch: Path) -> Path:
            self._installer.install(scratch / "alone", [wheel], request, scratch)
            return site_packages(scratch / "alone")

        self._bytecode.link(site_packages(directory), wheels, unpack)

    def _check(self, environment: Environment, request: PackageRequest) -> None:
        """Import the package in the new environment and run dissmodel's contract checks."""
        fonts = environment.directory / "matplotlib"
        report, output = self.inspect(environment, label=request.label, keep_fonts=fonts)
        if report["error"]:
            raise ExecutorModuleMissing(
                f"Package {request.label!r} was installed, but importing it fails: "
                f"{report['error']}. Import it on your own machine to see why, or name the module "
                f"in `executor_module`.",
                output,
            )
        faults = {name: found for name, found in report["contract_faults"].items() if found}
        if faults:
            name, found = next(iter(faults.items()))
            raise ContractCheckFailed(
                f"Package {request.label!r} was installed, but its executor {name!r} fails "
                f"dissmodel's contract: {'; '.join(found)}",
                output,
            )

    def inspect(
        self,
        environment: Environment,
        module: str = "",
        *,
        label: str = "",
        keep_fonts: Path | None = None,
    ) -> tuple[dict[str, Any], str]:
        """Import a package's executors in its environment.

        Parameters
        ----------
        environment : Environment
            Where the package is installed.
        module : str, optional
            The module to import; the distribution's own ones by default.
        label : str, optional
            How messages call the package; its distribution's name by default.
        keep_fonts : Path, optional
            Where to keep the font list that Matplotlib makes at its first import.

        Returns
        -------
        report : dict
            The harness's ``ImportReport`` and ``contract_faults``.
        output : str
            Last lines of what the import printed.

        Raises
        ------
        BuildFailed
            The interpreter died or did not end in time.
        """
        package = label or environment.distribution
        with environment.use(), scratch_directory(self._scratch) as scratch:
            report = scratch / "report.json"
            command = [str(environment.python), "-P", "-s", str(self._harness / "__main__.py")]
            command += ["check", "--distribution", environment.distribution, "--module", module]
            variables = clean_environment(environment, str(scratch))
            fonts = scratch / "matplotlib"
            if keep_fonts is not None:
                variables["MPLCONFIGDIR"] = str(fonts)
            done = self.workshop.run(
                [*command, "--report", str(report)],
                Room(scratch, readable=(self._harness, *environment.parts)),
                variables,
            )
            if keep_fonts is not None:
                _copy_font_list(fonts, keep_fonts)
            if done.exit_code is None:
                raise BuildFailed(
                    f"Package {package!r} was installed, but importing it {done.limit}; a package "
                    f"must not compute at import.",
                    done.output_tail,
                )
            if not os.path.lexists(report):
                raise BuildFailed(
                    f"Package {package!r} was installed, but importing it ended the interpreter "
                    f"(exit code {done.exit_code}); import it on your own machine to see why.",
                    done.output_tail,
                )
            try:
                content = _read_report(report)
            except (OSError, ValueError, RecursionError) as error:
                raise BuildFailed(
                    f"Package {package!r} was installed, but importing it spoils the check "
                    f"({error}); a package must not meddle with what imports it.",
                    done.output_tail,
                ) from error
            return content, done.output_tail

    def compare(self, environment: Environment, before: Path, after: Path) -> Any:
        """Have the libraries of an environment compare two maps, behind walls.

        Parameters
        ----------
        environment : Environment
            The model's own: it has what opens the model's files.
        before, after : Path
            The two files.

        Returns
        -------
        object
            What `harness.comparison.compare_maps` returns, or what the environment's own code has
            made of it; its texts and numbers can be stored.

        Raises
        ------
        ValueError
            The interpreter died, did not end in time or left no report; the message says which.
        BuildInterrupted
            The worker is being stopped.
        """
        with environment.use(), scratch_directory(self._scratch) as scratch:
            report = scratch / "report.json"
            command = [str(environment.python), "-P", "-s", str(self._harness / "__main__.py")]
            done = self.workshop.run(
                [*command, "compare", "--report", str(report), str(before), str(after)],
                Room(scratch, readable=(self._harness, *environment.parts, before, after)),
                clean_environment(environment, str(scratch)),
                timeout_seconds=COMPARISON_SECONDS,
            )
            if done.exit_code is None:
                raise ValueError(f"opening them took longer than {COMPARISON_SECONDS:g} s")
            try:
                return read_untrusted_json(report, max_bytes=_LARGEST_REPORT_BYTES)
            except FileNotFoundError:
                raise ValueError(
                    f"opening them ended the interpreter (exit code {done.exit_code})"
                ) from None


def clean_environment(environment: Environment, home: str) -> dict[str, str]:
    """Return the variables that model code sees: none of the operator's, hashes fixed.

    One thread for the numerical libraries, because a process with more cannot be forked; the date
    of GeoPackages is fixed, because their bytes would differ from run to run otherwise;
    Matplotlib finds the font list that the build made. Of a source that may change no bytecode is
    left: it counts for every file of the same size and second.
    """
    passed_on = ("PATH", "LANG", "OPENBLAS_CORETYPE")
    return {
        **{name: os.environ[name] for name in passed_on if name in os.environ},
        **({"PYTHONDONTWRITEBYTECODE": "1"} if environment.editable else {}),
        "HOME": home,
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": str(environment.directory / "matplotlib"),
        "OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z",
    }


def _distribution(directory: Path, lock: Lock, request: PackageRequest) -> str:
    """Name the model's own distribution in an installed environment."""
    if request.tree is not None and request.tree.editable:
        return _installed_name(directory, request.tree.path) or request.distribution
    own = lock.model_package(request)
    return own.name if own else request.distribution


def _read_report(file: Path) -> dict[str, Any]:
    """Read the harness's report, which the package could have written as well."""
    content = json.loads(read_made(file, _MAX_REPORT_BYTES))
    faults = content.get("contract_faults") if isinstance(content, dict) else None
    if not isinstance(faults, dict) or not all(
        isinstance(found, list) for found in faults.values()
    ):
        raise ValueError("its report is not the harness's")
    return {
        **content,
        "error": str(content.get("error", "")),
        "contract_faults": {name: list(map(str, found)) for name, found in faults.items()},
    }


def _copy_font_list(made: Path, kept: Path) -> None:
    """Take over the one file that Matplotlib reads at start."""
    found = [] if made.is_symlink() else sorted(made.glob("fontlist-*.json"))
    for file in found[:1]:
        with suppress(OSError, ValueError):
            content = read_made(file, _MAX_FONT_LIST_BYTES)
            kept.mkdir(exist_ok=True)
            (kept / file.name).write_bytes(content)


def _own_name(lock: Lock, request: PackageRequest) -> str:
    """Return the normalised name of the model's own package among the wheels."""
    own = lock.model_package(request)
    return canonicalize_name(own.name if own else request.distribution)


def _layer_name(wheels: Sequence[Wheel]) -> str:
    """Name the content of a layer of libraries on this kind of machine."""
    content = {
        "wheels": sorted([wheel.name, wheel.sha256] for wheel in wheels),
        "python": sys.implementation.cache_tag,
        "base": sys.base_prefix,
        "platform": sysconfig.get_platform(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _overlap(own: Path, libraries: Path) -> bool:
    """Say whether two installations have files in one package, so that Python would see half of it.

    Directories without ``__init__.py`` (namespace packages) may lie in both.
    """
    pending = list(own.iterdir())
    for entry in pending:  # it grows meanwhile: a package may be nested deeper than calls can be
        other = libraries / entry.relative_to(own)
        if (
            entry.name == "__pycache__"
            or entry.name.startswith("_virtualenv")
            or not other.exists()
        ):
            continue
        if not (entry.is_dir() and other.is_dir()):
            return True
        if any((place / "__init__.py").exists() for place in (entry, other)):
            return True
        pending += entry.iterdir()
    return False


@contextmanager
def _timed(parts: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds of the block to a part."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        parts[name] = parts.get(name, 0.0) + time.perf_counter() - begin


def _installed_name(directory: Path, source: Path) -> str:
    """Find the distribution that was installed from a local directory (PEP 610)."""
    for record in directory.glob("lib/python3*/site-packages/*.dist-info/direct_url.json"):
        url = urlsplit(json.loads(record.read_text()).get("url", ""))
        if url.scheme == "file" and Path(unquote(url.path)).resolve() == source.resolve():
            metadata = (record.parent / "METADATA").read_text(encoding="utf-8")
            for line in metadata.splitlines():
                if line.startswith("Name: "):
                    return line.removeprefix("Name: ").strip()
    return ""
