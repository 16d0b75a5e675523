"""Try one model of a registry out: install, import, check, run its example."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from dissmodel_platform.environments.packages import is_local
from dissmodel_platform.errors import (
    BuildInterrupted,
    ContractCheckFailed,
    EnvironmentBuildError,
    ExecutorClassMissing,
    ExecutorModuleMissing,
    InvalidInput,
)
from dissmodel_platform.registry.bounded_toml import TomlDocument, read_toml
from dissmodel_platform.registry.catalog import CATALOG_PREFIX
from dissmodel_platform.registry.example import (
    Example,
    has_example,
    read_example,
)
from dissmodel_platform.registry.problems import Severity, SpecProblem, shown
from dissmodel_platform.registry.spec import ModelSpec
from dissmodel_platform.services.check_files import RegistryContents
from dissmodel_platform.services.check_report import ExampleRun, FileReport, Step
from dissmodel_platform.services.prepare import Prepared
from dissmodel_platform.services.submit import RunRequest
from dissmodel_platform.services.trial import Trial
from dissmodel_platform.types import ExperimentStatus

Tell = Callable[[str], None]
"""Gets a line when something begins that takes a while."""

_MOST_NAMES = 10
_OUTPUT_LINES = 15


class ModelCheck:
    """Tries one model out, step by step; a fault ends it.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    contents : RegistryContents
        The registry it stands in.
    report : FileReport
        Where the findings are noted.
    tell : callable
        Gets a line when something begins that takes a while.
    """

    def __init__(
        self, spec: ModelSpec, contents: RegistryContents, report: FileReport, tell: Tell
    ) -> None:
        self._spec = spec
        self._contents = contents
        self._report = report
        self._tell = tell
        document = read_toml(spec.source_text)
        assert isinstance(document, TomlDocument), "it was read before"
        self._document = document

    def check_example(self) -> Example | None:
        """Read the model's example, if it has one; returns one that can be run."""
        if not has_example(self._spec):
            return None
        example, problems = read_example(self._spec, self._document)
        if not any(problem.is_error for problem in problems):
            problems += self._input_problems(example)
        if problems:
            self._report.add(Step.EXAMPLE, problems)
        if any(p.is_error or p.code == "example-not-run" for p in problems):
            return None
        return example

    async def try_out(self, trial: Trial, example: Example | None, *, allow_local: bool) -> None:
        """Install, import and check the model, and run its example where there is one."""
        begin = time.perf_counter()
        prepared = await self._prepare(trial, allow_local=allow_local)
        is_usable = prepared is not None and await self._inspect(trial, prepared)
        if is_usable and example is not None:
            await self._run_example(trial, example)
        self._report.seconds = time.perf_counter() - begin

    async def _prepare(self, trial: Trial, *, allow_local: bool) -> Prepared | None:
        package = self._spec.package
        if package and is_local(package) and not allow_local:
            message = (
                f"package {shown(package)} is a local one, which servers do not install; publish "
                f"it (PyPI or a git tag). On your own machine, check it with --allow-local."
            )
            self._fault(Step.PACKAGE, "local-package", message, "package")
            return None
        self._tell(f"{self._report.path}: installing {package or 'the built-in executors'}")
        try:
            prepared = await trial.prepare(self._spec)
        except BuildInterrupted:
            raise
        except EnvironmentBuildError as error:
            self._note_build_error(error)
            return None
        self._report.add(Step.PACKAGE)
        provenance = prepared.provenance()
        names = ("package_version", "package_commit", "code_version", "environment_key")
        self._report.environment = {n: str(provenance[n]) for n in names if provenance.get(n)}
        return prepared

    def _note_build_error(self, error: EnvironmentBuildError) -> None:
        step, key = Step.PACKAGE, "package"
        if isinstance(error, ExecutorModuleMissing | ExecutorClassMissing | ContractCheckFailed):
            self._report.add(Step.PACKAGE)
            step = Step.EXECUTOR
        if isinstance(error, ContractCheckFailed):
            self._report.add(Step.EXECUTOR)
            step = Step.CONTRACT
        output = _last_lines(error.output_tail.splitlines())
        self._fault(step, "package-unusable", str(error), key, output=output)

    async def _inspect(self, trial: Trial, prepared: Prepared) -> bool:
        """Import the executors; returns whether the model's own can be run."""
        self._tell(f"{self._report.path}: importing its executors")
        module_key = "executor_module" if self._spec.executor_module else "package"
        try:
            found, output = await trial.inspect(self._spec, prepared)
        except BuildInterrupted:
            raise
        except EnvironmentBuildError as error:
            output = _last_lines(error.output_tail.splitlines())
            self._fault(Step.EXECUTOR, "import-fails", str(error), module_key, output=output)
            return False
        if found["error"]:
            what = self._spec.executor_module or prepared.request.label
            message = f"Importing {what!r} fails: {found['error']}."
            tail = _last_lines(output.splitlines())
            self._fault(Step.EXECUTOR, "import-fails", message, module_key, output=tail)
            return False
        fault = self._class_fault(prepared.request.label, found["registered"])
        if fault is not None:
            self._fault(Step.EXECUTOR, "class-not-registered", fault, "class")
            return False
        self._report.add(Step.EXECUTOR)
        return self._check_contract(found["contract_faults"])

    def _class_fault(self, label: str, registered: list[str]) -> str | None:
        name = self._spec.class_name
        if name in registered:
            return None
        if not registered:
            return (
                f"{label!r} registers no executor when it is imported; import its module in the "
                f"package's __init__.py, or name it in `executor_module`."
            )
        names = ", ".join(map(repr, registered[:_MOST_NAMES]))
        rest = f" and {len(registered) - _MOST_NAMES} more" if len(registered) > _MOST_NAMES else ""
        near = get_close_matches(name or "", registered, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; give the `name` of one of them."
        what = f"class is {name!r}" if name else "class is missing"
        return f"{what}, and {label!r} registers {names}{rest}{hint}"

    def _check_contract(self, faults: dict[str, list[str]]) -> bool:
        self._report.add(Step.CONTRACT)
        for name, found in faults.items():
            if found:
                severity: Severity = "error" if name == self._spec.class_name else "warning"
                message = f"Executor {name!r} fails dissmodel's contract: {'; '.join(found)}"
                self._fault(Step.CONTRACT, "contract-broken", message, "class", severity=severity)
        return not faults.get(self._spec.class_name or "")

    async def _run_example(self, trial: Trial, example: Example) -> None:
        self._tell(f"{self._report.path}: running its example")
        uri = str(self._contents.tree.directory / example.input) if example.is_file else ""
        request = RunRequest(uri or example.input, parameters=example.parameters)
        try:
            run = await trial.run(self._spec.name, request)
        except InvalidInput as error:
            message = f"The example is refused: {error}"
            self._fault(Step.EXAMPLE, "invalid-example", message, "example")
            return
        status = run.experiment.status
        last = run.log[-1] if run.log else ""
        self._report.example = ExampleRun(status.value, last, run.seconds)
        self._report.add(Step.EXAMPLE)
        if status is not ExperimentStatus.COMPLETED:
            message = f"The example {status.value}: {last or 'it says nothing'}"
            output = _last_lines(run.log[:-1])
            self._fault(Step.EXAMPLE, "example-failed", message, "example", output=output)

    def _input_problems(self, example: Example) -> list[SpecProblem]:
        """Look for the example's input where it can be looked for."""
        address = example.input
        if example.is_file and self._contents.tree.file(address) is None:
            message = f"input: there is no file {shown(address)} in this repository; commit it."
            return [self._problem("invalid-example", message, "example", "input")]
        if address.startswith(CATALOG_PREFIX):
            catalog = self._contents.parsed_catalog
            sources = (catalog.sources if catalog else None) or {}
            name = address.removeprefix(CATALOG_PREFIX)
            if name not in sources:
                near = get_close_matches(name, sources, 1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                message = f"input: catalog.yaml has no source {shown(name)}{hint}"
                return [self._problem("invalid-example", message, "example", "input")]
            address = sources[name].uri
        if address.startswith("s3://"):
            message = (
                f"input {address} lies in a platform's own store, which a check cannot read; the "
                f"example is not run. Give an https address, or a small file of this repository."
            )
            severity: Severity = "warning"
            return [self._problem("example-not-run", message, "example", "input", severity)]
        return []

    def _problem(
        self, code: str, message: str, key: str, inner: str = "", severity: Severity = "error"
    ) -> SpecProblem:
        place = ("model", key, inner) if inner else ("model", key)
        line, column = self._document.place_of(place)
        return SpecProblem(self._report.path, code, message, line, column, severity)

    def _fault(
        self,
        step: Step,
        code: str,
        message: str,
        key: str,
        *,
        severity: Severity = "error",
        output: str = "",
    ) -> None:
        problem = self._problem(code, message, key, severity=severity)
        self._report.add(step, [problem], output)


def _last_lines(lines: Iterable[str]) -> str:
    """Return the end of what a tool or a model printed."""
    return "\n".join([line.rstrip() for line in lines if line.strip()][-_OUTPUT_LINES:])
