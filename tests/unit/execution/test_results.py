"""What the harness wrote down is read with suspicion: the model could have written it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.errors import ExecutionError, ModelFailed, RunLost
from dissmodel_platform.execution.forkserver import Exit
from dissmodel_platform.execution.results import LARGEST_RESULT_BYTES, RunRecord, read_result
from dissmodel_platform.untrusted import DEEPEST

RECORD = {
    "experiment_id": "0" * 32,
    "status": "completed",
    "code_version": "0.6.2",
    "output_path": "result.tif",
    "period": None,
    "artifacts": {"output": "ab" * 32},
    "metrics": {"time_run_sec": 1.5},
    "logs": ["one"],
    "a_field_of_a_later_dissmodel": 7,
}


def write(directory: Path, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / "result").mkdir(exist_ok=True)
    (directory / "result" / "result.json").write_text(text)


def read(directory: Path, code: int | None = 0, *, was_stopped: bool = False) -> RunRecord:
    return read_result(directory, Exit(code), was_stopped=was_stopped)


def test_a_record_is_read_whatever_else_it_holds(tmp_path: Path) -> None:
    write(tmp_path, {"record": RECORD})
    record = read(tmp_path)
    assert record.output_path == "result.tif"
    assert (record.metrics, record.logs) == ({"time_run_sec": 1.5}, ["one"])


def test_a_result_counts_also_where_the_process_was_killed_afterwards(tmp_path: Path) -> None:
    write(tmp_path, {"record": RECORD})
    assert read(tmp_path, None).status == "completed"
    assert read(tmp_path, -signal.SIGKILL).status == "completed"


def test_what_postgresql_cannot_hold_is_replaced(tmp_path: Path) -> None:
    metrics = '{"a": NaN, "b": -Infinity, "c": "x\\u0000y\\ud800", "\\u0000": [Infinity]}'
    write(tmp_path, json.dumps({"record": RECORD}).replace('{"time_run_sec": 1.5}', metrics))
    assert read(tmp_path).metrics == {
        "a": None,
        "b": None,
        "c": "x\N{SYMBOL FOR NULL}y?",
        "\N{SYMBOL FOR NULL}": [None],
    }


def test_a_model_that_raised_gives_its_own_message(tmp_path: Path) -> None:
    write(tmp_path, {"error": {"kind": "raised", "message": "no such\0 column"}})
    with pytest.raises(ModelFailed, match="no such\N{SYMBOL FOR NULL} column"):
        read(tmp_path, 1)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_record_that_calls_itself_failed_fails(tmp_path: Path, status: str) -> None:
    write(tmp_path, {"record": {**RECORD, "status": status}})
    with pytest.raises(ModelFailed, match=f"with status '{status}'"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("output_path", 7), ("metrics", "many"), ("artifacts", ["a"]), ("logs", "x"), ("status", 1)],
)
def test_a_field_of_another_kind_is_named(tmp_path: Path, field: str, value: Any) -> None:
    write(tmp_path, {"record": {**RECORD, field: value}})
    with pytest.raises(ModelFailed, match=f"does not fit: {field}: "):
        read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '{"record": null}', "{}", '{"error": 1}', "[" * 10**5]
)
def test_what_is_no_result_fails_the_run_and_not_the_platform(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ModelFailed):
        read(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


records = json_values | st.dictionaries(st.sampled_from(list(RECORD)), json_values)


@given(value=st.fixed_dictionaries({"record": records}) | json_values)
def test_no_result_raises_anything_but_an_error_of_ours(
    value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.getbasetemp()
    write(directory, value)
    try:
        record = read(directory)
    except ExecutionError:
        return
    json.dumps(record.model_dump(), allow_nan=False).encode()


def test_a_link_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text(json.dumps({"record": RECORD}))
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "result.json").symlink_to("elsewhere.json")
    with pytest.raises(ModelFailed):
        read(tmp_path)


def test_a_pipe_is_no_result_and_nobody_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    os.mkfifo(tmp_path / "result" / "result.json")
    with pytest.raises(ModelFailed, match="exit code 0"):
        read(tmp_path)


def test_a_result_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    with (tmp_path / "result" / "result.json").open("wb") as file:
        file.truncate(LARGEST_RESULT_BYTES + 1)
    with pytest.raises(ModelFailed, match="larger than 8 MiB"):
        read(tmp_path)


def nested(depth: int) -> str:
    record = json.dumps({"record": {**RECORD, "metrics": {"a": "here"}}})
    return record.replace('"here"', "[" * depth + "]" * depth)


@pytest.mark.parametrize("depth", [DEEPEST, 200, 900, 100_000])
def test_what_is_nested_deeper_than_can_be_stored_and_answered_fails(
    tmp_path: Path, depth: int
) -> None:
    write(tmp_path, nested(depth))
    with pytest.raises(ModelFailed, match="nested too deep"):
        read(tmp_path)


def test_what_is_nested_a_little_is_read(tmp_path: Path) -> None:
    write(tmp_path, nested(DEEPEST - 4))
    assert json.dumps(read(tmp_path).metrics).count("[") == DEEPEST - 4


def test_numbers_of_any_length_are_read_or_refused_but_never_stored_as_what_nobody_can_read(
    tmp_path: Path,
) -> None:
    record = json.dumps({"record": {**RECORD, "metrics": {"a": 0}}})
    write(tmp_path, record.replace('"a": 0', '"a": ' + "9" * 4_000 + ', "b": 1e999'))
    assert json.dumps(read(tmp_path).metrics) == '{"a": ' + "9" * 4_000 + ', "b": null}'
    write(tmp_path, record.replace('"a": 0', '"a": ' + "9" * 5_000))
    with pytest.raises(ModelFailed, match="cannot be read"):
        read(tmp_path)


def test_of_keys_that_come_twice_the_last_one_counts(tmp_path: Path) -> None:
    record = json.dumps({"record": {**RECORD, "metrics": {"a": 0}}})
    write(tmp_path, record.replace('"a": 0', '"a": 1, "a": 2, "\\u0000": 3, "\\u2400": 4'))
    assert read(tmp_path).metrics == {"a": 2, "\N{SYMBOL FOR NULL}": 4}


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{}", b'{"record": "\xff"}', b"\0", b"\xef\xbb\xbf{}"]
)
def test_bytes_that_are_no_utf_8_are_no_result(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "result.json").write_bytes(content)
    with pytest.raises(ModelFailed, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("code", "was_stopped", "kind", "reason"),
    [
        (None, False, RunLost, "preloaded process ended"),
        (-signal.SIGKILL, False, RunLost, "killed from outside"),
        (-signal.SIGKILL, True, ModelFailed, "ended by SIGKILL"),
        (-signal.SIGTERM, True, ModelFailed, "ended by SIGTERM"),
        (-signal.SIGSEGV, False, ModelFailed, "ended by SIGSEGV"),
        (-signal.SIGABRT, False, ModelFailed, "ended by SIGABRT"),
        (-signal.SIGXCPU, False, ModelFailed, "ended by SIGXCPU"),
        (-40, False, ModelFailed, "ended by signal 40"),
        (0, False, ModelFailed, "with exit code 0"),
        (3, False, ModelFailed, "with exit code 3"),
        (70, False, ModelFailed, "broke off outside the model"),
    ],
)
def test_a_run_without_a_result_is_lost_only_if_somebody_else_ended_it(
    tmp_path: Path,
    code: int | None,
    was_stopped: bool,
    kind: type[ExecutionError],
    reason: str,
) -> None:
    with pytest.raises(ExecutionError, match=reason) as ended:
        read(tmp_path, code, was_stopped=was_stopped)
    assert type(ended.value) is kind
