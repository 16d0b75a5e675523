"""The check of a registry, told to a person, to GitHub, or to another program."""

from __future__ import annotations

import json
from collections.abc import Iterator

from dissmodel_platform.cli.echo import echo, printable
from dissmodel_platform.cli.tables import print_table
from dissmodel_platform.services.check_report import CheckReport, FileReport, Finding, Step


def print_report(report: CheckReport) -> None:
    """Print a table, and under it a sentence for each finding."""
    _print_files(report)
    for file in report.files:
        for finding in file.findings:
            _print_finding(finding)
        if file.example is not None:
            echo(f"{file.path}: {_example(file)}")
    for path in report.removed:
        echo(f"{path}: removed")
    echo(_summary(report))


def print_annotations(report: CheckReport) -> None:
    """Print GitHub's workflow commands, which put each finding beside its line.

    See https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions; what is
    escaped there is escaped here, so that no text of a registry or a model becomes a command.
    """
    _print_files(report)
    for finding in report.findings:
        problem = finding.problem
        command = "error" if problem.is_error else "warning"
        place = {"file": problem.path, "line": problem.line, "col": problem.column}
        told = (f"{problem.message} ({problem.code})", finding.output)
        message = printable("\n".join(filter(None, told)))
        echo(annotation(command, message, **place))
    for file in report.files:
        if file.example is not None:
            echo(annotation("notice", _example(file), file=file.path))
    for path in report.removed:
        echo(annotation("notice", f"{path} is removed.", file=path))
    echo(_summary(report))


def annotation(command: str, message: str, **properties: str | int | None) -> str:
    """Return one workflow command; properties without a value are left out."""
    given = [
        f"{name}={_escaped_property(str(value))}"
        for name, value in properties.items()
        if value is not None
    ]
    return f"::{command} {','.join(given)}::{_escaped(message)}"


def print_json(report: CheckReport) -> None:
    """Print one JSON object."""
    content = {
        "ok": report.ok,
        "head": report.head,
        "base": report.base,
        "faults": report.faults,
        "warnings": report.warnings,
        "seconds": round(report.seconds, 3),
        "removed": report.removed,
        "files": [
            {
                "path": file.path,
                "steps": {step.value: file.verdict(step).value for step in Step},
                "environment": file.environment,
                "example": vars(file.example) if file.example else None,
                "seconds": round(file.seconds, 3),
                "findings": [_finding(finding) for finding in file.findings],
            }
            for file in report.files
        ],
    }
    echo(json.dumps(content, indent=2))


def _finding(finding: Finding) -> dict[str, object]:
    problem = finding.problem
    return {
        "step": finding.step.value,
        "severity": problem.severity,
        "code": problem.code,
        "path": problem.path,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "output": finding.output,
    }


def _print_files(report: CheckReport) -> None:
    headings = ("file", *(step.value for step in Step), "seconds")
    print_table(headings, (tuple(_row(file)) for file in report.files))


def _row(file: FileReport) -> Iterator[str]:
    yield file.path
    for step in Step:
        yield file.verdict(step).value
    yield f"{file.seconds:.1f}" if file.seconds else "-"


def _print_finding(finding: Finding) -> None:
    problem = finding.problem
    place = ":".join(str(part) for part in (problem.path, problem.line, problem.column) if part)
    echo(f"{place}: {problem.severity}: {_sentence(problem.message)} ({problem.code})")
    for line in finding.output.splitlines():
        echo(f"    {line}")


def _example(file: FileReport) -> str:
    assert file.example is not None
    run = file.example
    last = f"; the end of its log: {_sentence(run.last_line)}" if run.last_line else ""
    return f"the example {run.status} in {run.seconds:.1f} s{last}"


def _summary(report: CheckReport) -> str:
    since = f" changed since {report.base[:12]}" if report.base else ""
    return (
        f"{_counted(len(report.files), 'file')}{since}: {_counted(report.faults, 'fault')}, "
        f"{_counted(report.warnings, 'warning')} ({report.seconds:.1f} s)"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped_property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
