"""Find a package's executors: which module to import, what it registers, what it lacks."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ImportReport:
    """What importing a package's executor modules brought.

    Attributes
    ----------
    modules : list of str
        The modules that were imported.
    registered : list of str
        Names in dissmodel's ``ExecutorRegistry`` after the import.
    dissmodel_version : str
        Version of the installed ``dissmodel``.
    error : str
        Empty, or why the import failed (one line).
    missing_module : str
        Name of the module that was not found, where that is why.
    """

    modules: list[str] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)
    dissmodel_version: str = ""
    error: str = ""
    missing_module: str = ""

    @classmethod
    def failed(cls, error: BaseException) -> ImportReport:
        """Make the report of an import that raised."""
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        return cls(
            error=f"{type(error).__name__}: {error}",
            missing_module=missing,
            dissmodel_version=installed_version("dissmodel"),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a dictionary for JSON."""
        return asdict(self)


def import_executors(distribution: str, module: str) -> ImportReport:
    """Import the module that defines the executors.

    Parameters
    ----------
    distribution : str
        Name of the model's package; its own top-level modules are imported when ``module`` is
        empty.
    module : str
        The spec's ``executor_module``, or empty.

    Raises
    ------
    BaseException
        Whatever the import raises.
    """
    modules = [module] if module else top_level_modules(distribution)
    for name in modules:
        importlib.import_module(name)
    if importlib.util.find_spec("numpy") is not None:  # its generator is seeded in every run
        importlib.import_module("numpy")
    registry = importlib.import_module("dissmodel.executor").ExecutorRegistry
    return ImportReport(
        modules=modules,
        registered=sorted(registry.list()),
        dissmodel_version=installed_version("dissmodel"),
    )


def prepare_caches() -> None:
    """Let Matplotlib write its font list now, so that no run has to (it takes seconds)."""
    if importlib.util.find_spec("matplotlib") is not None:
        importlib.import_module("matplotlib.font_manager")


def top_level_modules(distribution: str) -> list[str]:
    """List the modules that a distribution brings, from its metadata.

    An editable install may list none: then it is the distribution's name with ``-`` as ``_``.
    """
    fallback = [re.sub(r"[-.]+", "_", distribution)]
    try:
        installed = importlib.metadata.distribution(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # the latter: an empty name
        return fallback
    names = set((installed.read_text("top_level.txt") or "").split())
    if names:
        return _own(names) or fallback
    for file in installed.files or ():
        first = file.parts[0]
        if len(file.parts) > 1 and file.suffix == ".py" and first.isidentifier():
            names.add(first)
        elif len(file.parts) == 1 and file.suffix == ".py" and not first.startswith("_"):
            names.add(file.stem)
    return _own(names) or fallback


def _own(names: Iterable[str]) -> list[str]:
    """Leave out what packages bring by mistake."""
    return sorted(n for n in names if n.isidentifier() and n not in ("test", "tests", "docs"))


def installed_version(distribution: str) -> str:
    """Return the version of an installed distribution, or an empty string."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def contract_faults(names: Iterable[str]) -> dict[str, list[str]]:
    """Run dissmodel's own contract checks on the registered executors.

    Returns
    -------
    dict of str to list of str
        For each executor that fails: the failed checks with their reasons.
    """
    try:
        testing = importlib.import_module("dissmodel.executor.testing")
    except ModuleNotFoundError:
        return {}
    registry = importlib.import_module("dissmodel.executor").ExecutorRegistry
    faults: dict[str, list[str]] = {}
    for name in names:
        try:
            harness = testing.ExecutorTestHarness(registry.get(name))
            with contextlib.redirect_stdout(io.StringIO()):
                passed = harness.run_contract_tests()
        except Exception as error:
            faults[name] = [f"the executor cannot be constructed: {type(error).__name__}: {error}"]
            continue
        if not passed:
            faults[name] = [str(fault) for fault in harness._failed]
    return faults
