"""One experiment: build the record, drive the executor's four phases, write down what came out."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .events import EventWriter
from .inspection import import_executors, installed_version
from .interception import RunStore, intercept
from .progress import ProgressSampler

PHASES = ("validate", "load", "run", "save")

RESULT_FIELDS = (
    "status",
    "code_version",
    "output_path",
    "period",
    "artifacts",
    "metrics",
    "logs",
)
"""What a run fills in; the other fields of the record are known to whoever reads the result."""


class UnusableExecutor(Exception):
    """The spec's class cannot be run; the message says why and what to do."""


class BrokenImport(Exception):
    """The executors cannot be imported; the cause is what the import raised."""


class Phases:
    """An executor that says which phase it is in.

    Stands in for the executor in dissmodel's own ``execute_lifecycle``, so that a run here is the
    run of the command line.
    """

    def __init__(self, executor: Any, events: EventWriter) -> None:
        self._executor = executor
        self._events = events

    def validate(self, record: Any) -> None:
        """Check the record."""
        self._events.write("phase", phase="validate")
        self._executor.validate(record)

    def load(self, record: Any) -> Any:
        """Read the inputs."""
        self._events.write("phase", phase="load")
        return self._executor.load(record)

    def run(self, data: Any, record: Any) -> Any:
        """Simulate."""
        self._events.write("phase", phase="run")
        return self._executor.run(data, record)

    def save(self, result: Any, record: Any) -> Any:
        """Write the outputs."""
        self._events.write("phase", phase="save")
        saved = self._executor.save(result, record)
        if saved is None:
            raise UnusableExecutor(
                f"{type(self._executor).__name__}.save() returned None; it must return the record."
            )
        return saved


class Package(NamedTuple):
    """Where a spec's executor is.

    Attributes
    ----------
    distribution : str
        Name of the model's own distribution.
    module : str
        The spec's ``executor_module``, or empty.
    """

    distribution: str
    module: str


def run_experiment(directory: Path, events: EventWriter, package: Package | None = None) -> int:
    """Run the experiment described by ``directory/request.json``.

    After this, ``directory/result/result.json`` holds either ``record`` (`RESULT_FIELDS` as JSON)
    or ``error`` (``kind``, ``type``, ``message``, ``traceback``, ``phase``).

    Parameters
    ----------
    directory : Path
        The run's own directory.
    events : EventWriter
        Is told the phases and the simulated time.
    package : Package, optional
        What has to be imported first.

    Returns
    -------
    int
        Exit code of the process: 0, or 1 when the model raised.
    """
    result: dict[str, Any]
    try:
        if package is not None:
            _import(package)
        request = json.loads((directory / "request.json").read_text())
        result = {"record": _run(request, directory, events)}
    except UnusableExecutor as error:
        result = {"error": _describe(error, kind="unusable")}
    except BrokenImport as error:
        traceback.print_exception(error.__cause__)
        result = {"error": _describe(error, kind="import")}
    except SystemExit as error:
        traceback.print_exc()
        text = f"The model called sys.exit({error.code!r}); a model must raise instead."
        result = {"error": _describe(error, kind="raised", message=text)}
    except BaseException as error:
        traceback.print_exc()
        result = {"error": _describe(error, kind="raised")}
    sys.stdout.flush()
    sys.stderr.flush()
    unfinished = directory / "result" / "result.json.part"
    unfinished.write_text(json.dumps(result))
    unfinished.rename(unfinished.with_suffix(""))
    return 1 if "error" in result else 0


def _import(package: Package) -> None:
    try:
        import_executors(*package)
    except BaseException as error:
        raise BrokenImport(f"{type(error).__name__}: {error}") from error


def _run(request: dict[str, Any], directory: Path, events: EventWriter) -> dict[str, Any]:
    executor = _executor(request["class_name"])
    seed_generators(request["random_seed"])
    schemas = importlib.import_module("dissmodel.executor.schemas")
    record = schemas.ExperimentRecord.model_validate(
        {**request["record"], "code_version": installed_version("dissmodel")}
    )
    intercept(RunStore(directory / "outputs", record.experiment_id, request["staged"]))
    with ProgressSampler(events):
        record, timings = _lifecycle()(Phases(executor, events), record)
    record.metrics.update(timings)
    return _as_json(record)


def _as_json(record: Any) -> dict[str, Any]:
    """Return a record's results as JSON data, also where the model put NumPy's numbers into it."""
    try:
        text = record.model_dump_json()
    except Exception:
        text = json.dumps(record.model_dump(), default=_plain)
    content: dict[str, Any] = json.loads(text)
    return {name: content[name] for name in RESULT_FIELDS if name in content}


def _plain(value: Any) -> Any:
    """Return a number, list or text for a value that JSON does not know."""
    for method in ("isoformat", "tolist"):
        if callable(getattr(value, method, None)):
            return getattr(value, method)()
    return str(value)


def _executor(class_name: str | None) -> Any:
    """Construct the executor that the spec names."""
    registry = importlib.import_module("dissmodel.executor").ExecutorRegistry
    known = ", ".join(sorted(registry.list())) or "none"
    if not class_name:
        raise UnusableExecutor(
            f"The spec has no `class` under [model]; set it to one that the package registers: "
            f"{known}."
        )
    if class_name not in registry.list():
        raise UnusableExecutor(
            f"The package registers no executor {class_name!r}; set `class` under [model] to one "
            f"that it registers: {known}."
        )
    executor = registry.get(class_name)()
    try:
        inspect.signature(executor.run).bind("data", "record")
    except TypeError as error:
        raise UnusableExecutor(
            f"{type(executor).__name__}.run() does not take (data, record): it was written for a "
            f"dissmodel older than 0.4; move the loading into load() and publish a new version."
        ) from error
    return executor


def _lifecycle() -> Callable[[Any, Any], tuple[Any, dict[str, float]]]:
    """Return dissmodel's own driver of the phases, or its equal for versions without one."""
    try:
        runner = importlib.import_module("dissmodel.executor.runner")
    except ModuleNotFoundError:
        return _own_lifecycle
    driver: Callable[[Any, Any], tuple[Any, dict[str, float]]] = runner.execute_lifecycle
    return driver


def _own_lifecycle(executor: Any, record: Any) -> tuple[Any, dict[str, float]]:
    """Drive the phases and time them (seconds), as ``execute_lifecycle`` of dissmodel 0.5 does."""
    timings: dict[str, float] = {}

    def timed(phase: str, *arguments: Any) -> Any:
        begin = time.perf_counter()
        value = getattr(executor, phase)(*arguments)
        timings[f"time_{phase}_sec"] = time.perf_counter() - begin
        return value

    timed("validate", record)
    data = timed("load", record)
    result = timed("run", data, record)
    record = timed("save", result, record)
    timings["time_total_sec"] = sum(timings.values())
    return record, {name: round(seconds, 3) for name, seconds in timings.items()}


def seed_generators(seed: int) -> None:
    """Seed the global generators of ``random`` and of NumPy.

    A forked run would otherwise repeat the draws of the run before it; a fresh one could never be
    repeated.
    """
    random.seed(seed)
    numpy = sys.modules.get("numpy")  # imported with the executors where it is installed
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def _reached(error: BaseException) -> str:
    """Say which limit of this process an error came from, if one did."""
    if isinstance(error, MemoryError):
        what, limit = "memory", resource.getrlimit(resource.RLIMIT_DATA)[0]
    elif isinstance(error, OSError) and error.errno == errno.EFBIG:
        what, limit = "disk", resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    else:
        return ""
    if limit == resource.RLIM_INFINITY:
        return ""
    size = f"{limit / 1e9:.3g} GB" if limit >= 10**9 else f"{limit / 1e6:.3g} MB"
    return (
        f"The run was ended: {what} limit of {size} reached; simulate less, or ask the operator "
        f"for a higher limit."
    )


def _describe(error: BaseException, *, kind: str, message: str = "") -> dict[str, str]:
    return {
        "kind": kind,
        "type": type(error).__name__,
        "message": message or _reached(error) or str(error).strip() or type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
    }
