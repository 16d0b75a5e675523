"""The echo: waits, writes, and needs next to nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from dissmodel.executor import (
    DataSource,
    ExecutorRegistry,
    ExecutorTestHarness,
    ExperimentRecord,
    execute_lifecycle,
)
from dissmodel_builtin import EchoExecutor


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(**fields: object) -> ExperimentRecord:
    return execute_lifecycle(EchoExecutor(), ExperimentRecord(**fields))[0]


def test_contract_of_dissmodel():
    harness = ExecutorTestHarness(EchoExecutor)
    assert harness.run_contract_tests()
    assert harness.run_with_sample_data()
    assert ExecutorRegistry.get("echo") is EchoExecutor


def test_writes_hello_in_the_working_directory(tmp_path):
    record = run()
    assert (record.status, record.output_path) == ("completed", "echo.txt")
    assert (tmp_path / "echo.txt").read_bytes() == b"hello"
    assert record.output_sha256 == hashlib.sha256(b"hello").hexdigest()


def test_writes_the_message_where_the_record_says(tmp_path):
    run(parameters={"message": "maré alta\n"}, output_path=str(tmp_path / "new" / "said.txt"))
    assert (tmp_path / "new" / "said.txt").read_text(encoding="utf-8") == "maré alta\n"


def test_input_is_not_read():
    assert run(source=DataSource(uri="no-such-file.zip")).status == "completed"


def test_pauses(monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    run(parameters={"pause": 3.0})
    assert pauses == [3]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("message", 5, "text"),
        ("message", None, "text"),
        ("pause", -1, "a whole number, 0 or more"),
        ("pause", 0.5, "a whole number, 0 or more"),
        ("pause", True, "a whole number, 0 or more"),
        ("pause", "2", "a whole number, 0 or more"),
    ],
)
def test_bad_parameters_are_named(name, value, wanted):
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be {wanted}"):
        run(parameters={name: value})


def test_importing_the_package_registers_both_executors_and_no_geospatial_library():
    code = (
        "import sys, dissmodel_builtin\n"
        "from dissmodel.executor import ExecutorRegistry\n"
        "print(sorted(ExecutorRegistry.list()))\n"
        "print([m for m in ('geopandas', 'rasterio', 'libpysal', 'pandas') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["['echo', 'game_of_life']", "[]"]
