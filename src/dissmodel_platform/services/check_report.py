"""What the check of a registry found: one entry per file, one verdict per step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from dissmodel_platform.registry.problems import SpecProblem
from dissmodel_platform.types import Revision


class Step(StrEnum):
    """What is looked at, in this order; a fault keeps a file from the next step."""

    SPEC = "spec"
    PACKAGE = "package"
    EXECUTOR = "executor"
    CONTRACT = "contract"
    EXAMPLE = "example"


class Verdict(StrEnum):
    """How a step came out."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    NOT_DONE = "-"


@dataclass(frozen=True)
class Finding:
    """Something to mend, or to look at.

    Attributes
    ----------
    step : Step
        Where it was found.
    problem : SpecProblem
        Place, code, sentence; an error is a fault, a warning fails nothing.
    output : str
        Last lines that a tool or the model printed.
    """

    step: Step
    problem: SpecProblem
    output: str = ""


@dataclass(frozen=True)
class ExampleRun:
    """How the example ended.

    Attributes
    ----------
    status : str
        ``completed`` or ``failed``.
    last_line : str
        The end of its log.
    seconds : float
        From submission to the end.
    """

    status: str
    last_line: str
    seconds: float


@dataclass
class FileReport:
    """One file of the registry.

    Attributes
    ----------
    path : str
        In the repository, printable.
    findings : list of Finding
        In the order in which they were found.
    environment : dict of str to str
        What was installed: ``package_version``, ``package_commit``, ``dissmodel``, ``key``.
    example : ExampleRun or None
        Where the model has one and it came to that.
    seconds : float
        What looking at it took.
    """

    path: str
    findings: list[Finding] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    example: ExampleRun | None = None
    seconds: float = 0.0
    _done: set[Step] = field(default_factory=set)

    def add(self, step: Step, problems: Iterable[SpecProblem] = (), output: str = "") -> None:
        """Note that a step was carried out, and what it found."""
        self._done.add(step)
        self.findings += [Finding(step, problem, output) for problem in problems]

    def verdict(self, step: Step) -> Verdict:
        """Sum up one step."""
        if step not in self._done:
            return Verdict.NOT_DONE
        found = [finding.problem for finding in self.findings if finding.step is step]
        if any(problem.is_error for problem in found):
            return Verdict.FAULT
        return Verdict.WARNING if found else Verdict.OK

    @property
    def has_fault(self) -> bool:
        """Whether the file must not be merged as it is."""
        return any(finding.problem.is_error for finding in self.findings)


@dataclass
class CheckReport:
    """The whole check.

    Attributes
    ----------
    head : Revision or None
        The commit that is checked out.
    base : Revision or None
        What the files were compared with; ``None``: all of them were looked at.
    removed : list of str
        Files that the base has and the work tree has not.
    seconds : float
        What the whole check took.
    """

    head: Revision | None
    base: Revision | None
    removed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    _files: dict[str, FileReport] = field(default_factory=dict)

    @property
    def files(self) -> list[FileReport]:
        """The files that were looked at, by path."""
        return [self._files[path] for path in sorted(self._files)]

    @property
    def findings(self) -> Iterator[Finding]:
        """Everything that was found, file by file."""
        return (finding for file in self.files for finding in file.findings)

    @property
    def faults(self) -> int:
        """Number of faults."""
        return sum(finding.problem.is_error for finding in self.findings)

    @property
    def warnings(self) -> int:
        """Number of warnings."""
        return sum(not finding.problem.is_error for finding in self.findings)

    @property
    def ok(self) -> bool:
        """Whether the registry can be published as it is."""
        return self.faults == 0

    def file(self, path: str) -> FileReport:
        """Return the entry of a file, making it at its first mention."""
        return self._files.setdefault(path, FileReport(path))
