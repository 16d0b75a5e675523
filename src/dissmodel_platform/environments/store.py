"""The environments of one machine: named by content, built beside, published by one rename."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from dissmodel_platform.environments.failures import explain
from dissmodel_platform.environments.lock import Lock, environment_key
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.uv import Uv
from dissmodel_platform.errors import (
    BuildFailed,
    ContractCheckFailed,
    ExecutorModuleMissing,
)
from dissmodel_platform.types import EnvironmentKey

MARKER = "platform.json"
_LOOK_SECONDS = 0.5


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
    """

    key: EnvironmentKey
    directory: Path
    distribution: str

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.directory / "bin" / "python"


@dataclass(frozen=True)
class Acquired:
    """An environment, and what it cost to get it."""

    environment: Environment
    built: bool
    seconds: float


class EnvironmentStore:
    """Builds and finds environments below one directory.

    Parameters
    ----------
    directory : Path
        Holds the environments, the package cache and the locks, on one file system.
    harness : Path
        The harness's entry file, which checks an environment from inside.
    build_timeout_seconds : float
        Wall-clock limit of each step of a build.
    """

    def __init__(self, directory: Path, harness: Path, *, build_timeout_seconds: float) -> None:
        self._environments = directory / "environments"
        self._locks = directory / "locks"
        self._harness = harness
        for path in (self._environments, self._locks):
            path.mkdir(parents=True, exist_ok=True)
        self.uv = Uv(directory / "cache", directory / "home", timeout_seconds=build_timeout_seconds)

    def acquire(self, lock: Lock, request: PackageRequest) -> Acquired:
        """Return the environment of a lock, building it if this machine lacks it.

        Two callers that want one key: the second waits and takes the first one's. Callers with
        different keys never wait for each other. After this, callers can assume that the
        executor's package imports and fulfils dissmodel's contract.

        Raises
        ------
        EnvironmentBuildError
            One of its kinds, with a sentence that names the package and the cause.
        OSError
            The disk refused.
        """
        begin = time.perf_counter()
        key = environment_key(lock, request)
        found = self._find(key, lock, request)
        if found is not None:
            return Acquired(found, built=False, seconds=time.perf_counter() - begin)
        with self._building_alone(key):
            found = self._find(key, lock, request)
            built = found is None
            environment = found or self._build(key, lock, request)
        return Acquired(environment, built=built, seconds=time.perf_counter() - begin)

    def has(self, lock: Lock, request: PackageRequest) -> bool:
        """Say whether this machine has the environment of a lock."""
        return self._find(environment_key(lock, request), lock, request) is not None

    def interrupt(self) -> None:
        """End the builds that run now and refuse new ones; for shutting down."""
        self.uv.interrupt()

    @contextmanager
    def _building_alone(self, key: EnvironmentKey) -> Iterator[None]:
        """Be the only builder of a key on this machine; a stopped worker waits for nobody."""
        lock = FileLock(self._locks / f"{key}.lock")
        while True:
            self.uv.commands.check()
            try:
                lock.acquire(timeout=_LOOK_SECONDS)
                break
            except Timeout:
                continue
        try:
            yield
        finally:
            lock.release()

    def _find(self, key: EnvironmentKey, lock: Lock, request: PackageRequest) -> Environment | None:
        directory = self._environments / key
        if not (directory / MARKER).is_file():
            return None
        return Environment(key, directory, _distribution(directory, lock, request))

    def _build(self, key: EnvironmentKey, lock: Lock, request: PackageRequest) -> Environment:
        """Build beside, check, and publish by renaming; the caller holds the key's lock."""
        final = self._environments / key
        for leftover in [*self._environments.glob(f".{key}.*"), final]:
            shutil.rmtree(leftover, ignore_errors=True)
        building = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=self._environments))
        try:
            self._install(building, lock, request)
            distribution = _distribution(building, lock, request)
            self._check(Environment(key, building, distribution), request)
            (building / "pylock.toml").write_text(lock.text)
            marker = {"key": key, "package": request.package}
            (building / MARKER).write_text(json.dumps(marker))
            building.chmod(0o755)
            building.rename(final)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        return Environment(key, final, distribution)

    def _install(self, directory: Path, lock: Lock, request: PackageRequest) -> None:
        (directory / "pylock.toml").write_text(lock.text)
        python = ["--python", str(directory / "bin" / "python")]
        venv = ["venv", "--python", sys.executable, "--relocatable", "--allow-existing", "--quiet"]
        self._uv([*venv, str(directory)], directory, request)
        self._uv(
            ["pip", "sync", *python, "--compile-bytecode", "--quiet", "pylock.toml"],
            directory,
            request,
        )
        if request.tree is not None:
            self._uv(
                ["pip", "install", *python, "--no-deps", "--compile-bytecode", "--quiet"]
                + (["--editable"] if request.tree.editable else [])
                + [str(request.tree.path)],
                directory,
                request,
            )

    def _uv(self, arguments: Sequence[str], directory: Path, request: PackageRequest) -> None:
        result = self.uv.run(arguments, cwd=directory)
        if result.exit_code != 0:
            raise explain(request.label, result.output_tail)

    def _check(self, environment: Environment, request: PackageRequest) -> None:
        """Import the package in the new environment and run dissmodel's contract checks."""
        report, output = self.inspect(environment, label=request.label)
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
        self, environment: Environment, module: str = "", *, label: str = ""
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
        with tempfile.TemporaryDirectory(prefix="check-") as scratch:
            report = Path(scratch) / "report.json"
            command = [str(environment.python), "-P", "-s", str(self._harness), "check"]
            command += ["--distribution", environment.distribution, "--module", module]
            done = self.uv.commands.run(
                [*command, "--report", str(report)],
                cwd=Path(scratch),
                environment=clean_environment(environment, scratch),
            )
            if done.exit_code is None:
                raise BuildFailed(
                    f"Package {package!r} was installed, but importing it did not end within "
                    f"{self.uv.commands.timeout_seconds:g} s; a package must not compute at "
                    f"import.",
                    done.output_tail,
                )
            if not report.exists():
                raise BuildFailed(
                    f"Package {package!r} was installed, but importing it ended the interpreter "
                    f"(exit code {done.exit_code}); import it on your own machine to see why.",
                    done.output_tail,
                )
            content: dict[str, Any] = json.loads(report.read_text())
            return content, done.output_tail


def clean_environment(environment: Environment, home: str) -> dict[str, str]:
    """Return the variables that model code sees: none of the operator's, hashes fixed.

    One thread for the numerical libraries, because a process with more cannot be forked; the date
    of GeoPackages is fixed, because their bytes would differ from run to run otherwise;
    Matplotlib finds the font list that the build made.
    """
    passed_on = ("PATH", "LANG", "OPENBLAS_CORETYPE")
    return {
        **{name: os.environ[name] for name in passed_on if name in os.environ},
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
