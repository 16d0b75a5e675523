"""The check's report in its three forms."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.cli.check_formats import (
    annotation,
    print_annotations,
    print_json,
    print_report,
)
from dissmodel_platform.registry.problems import SpecProblem
from dissmodel_platform.services.check_report import CheckReport, ExampleRun, Step, Verdict

_COMMAND = re.compile(r"::([a-z]+) ?([^:]*)::(.*)")


def unescaped(text: str) -> str:
    """Do as GitHub's runner does with a property or a message."""
    for code, character in (("2C", ","), ("3A", ":"), ("0A", "\n"), ("0D", "\r"), ("25", "%")):
        text = text.replace(f"%{code}", character)
    return text


def parsed(line: str) -> tuple[str, dict[str, str], str]:
    """Read a workflow command as GitHub's runner does."""
    found = _COMMAND.fullmatch(line)
    assert found is not None, line
    properties = dict(pair.split("=", 1) for pair in found[2].split(",") if pair)
    return found[1], {k: unescaped(v) for k, v in properties.items()}, unescaped(found[3])


def report() -> CheckReport:
    made = CheckReport(None, None, ["models/gone.toml"])
    bad = made.file("models/bad, or so: 100%.toml")
    bad.add(Step.SPEC, [SpecProblem(bad.path, "name-differs", "One: two, three.", 3, 1, "warning")])
    bad.add(Step.PACKAGE)
    problem = SpecProblem(bad.path, "example-failed", "It fails at 5%.", 12)
    bad.example = ExampleRun("failed", "\x1b[31mthe\nend", 1.25)
    bad.add(Step.EXAMPLE, [problem], "a line\n::error::not a command")
    good = made.file("models/a.toml")
    good.add(Step.SPEC)
    return made


def test_the_table_has_a_verdict_for_each_step_and_a_sentence_for_each_finding(capsys) -> None:
    print_report(report())
    assert capsys.readouterr().out.splitlines() == [
        "models/a.toml\tok\t-\t-\t-\t-\t-",
        "models/bad, or so: 100%.toml\twarning\tok\t-\t-\tfault\t-",
        "models/bad, or so: 100%.toml:3:1: warning: One: two, three. (name-differs)",
        "models/bad, or so: 100%.toml:12: error: It fails at 5%. (example-failed)",
        "    a line",
        "    ::error::not a command",
        "models/bad, or so: 100%.toml: the example failed in 1.2 s; "
        "the end of its log: \\x1b[31mthe end",
        "models/gone.toml: removed",
        "2 files: 1 fault, 1 warning (0.0 s)",
    ]


def test_annotations_stand_beside_their_lines(capsys) -> None:
    print_annotations(report())
    lines = capsys.readouterr().out.splitlines()
    commands = [parsed(line) for line in lines if line.startswith("::")]
    name = "models/bad, or so: 100%.toml"
    assert commands == [
        ("warning", {"file": name, "line": "3", "col": "1"}, "One: two, three. (name-differs)"),
        (
            "error",
            {"file": name, "line": "12"},
            "It fails at 5%. (example-failed)\na line\n::error::not a command",
        ),
        (
            "notice",
            {"file": name},
            "the example failed in 1.2 s; the end of its log: \\x1b[31mthe end",
        ),
        ("notice", {"file": "models/gone.toml"}, "models/gone.toml is removed."),
    ]
    assert lines[-1] == "2 files: 1 fault, 1 warning (0.0 s)"


def test_the_escapes_are_those_of_the_documentation() -> None:
    assert (
        annotation("error", "50%\r\na:b,c", file="a:b,c%.toml", line=3, col=None)
        == "::error file=a%3Ab%2Cc%25.toml,line=3::50%25%0D%0Aa:b,c"
    )


@given(st.text(), st.text(min_size=1))
def test_no_text_leaves_its_annotation(message, path) -> None:
    line = annotation("error", message, file=path, line=1)
    assert "\n" not in line
    assert "\r" not in line
    found = re.fullmatch(r"::error file=([^:,]*),line=1::(.*)", line, re.DOTALL)
    assert found is not None
    assert (unescaped(found[1]), unescaped(found[2])) == (path, message)


def test_the_object_holds_everything(capsys) -> None:
    print_json(report())
    content = json.loads(capsys.readouterr().out)
    assert (content["ok"], content["faults"], content["warnings"]) == (False, 1, 1)
    assert content["removed"] == ["models/gone.toml"]
    good, bad = content["files"]
    assert good["steps"] == dict.fromkeys(map(str, Step), "-") | {"spec": "ok"}
    assert bad["steps"]["example"] == "fault"
    assert bad["example"] == {"status": "failed", "last_line": "\x1b[31mthe\nend", "seconds": 1.25}
    assert bad["findings"][1] == {
        "step": "example",
        "severity": "error",
        "code": "example-failed",
        "path": "models/bad, or so: 100%.toml",
        "line": 12,
        "column": None,
        "message": "It fails at 5%.",
        "output": "a line\n::error::not a command",
    }


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [
        ([], Verdict.OK),
        (["warning"], Verdict.WARNING),
        (["warning", "error"], Verdict.FAULT),
        (["error", "warning"], Verdict.FAULT),
    ],
)
def test_the_worst_finding_of_a_step_is_its_verdict(severities, verdict) -> None:
    file = CheckReport(None, None).file("models/a.toml")
    assert file.verdict(Step.SPEC) is Verdict.NOT_DONE
    file.add(Step.SPEC, [SpecProblem(file.path, "x", "X.", severity=s) for s in severities])
    assert file.verdict(Step.SPEC) is verdict
    assert file.has_fault is (verdict is Verdict.FAULT)
