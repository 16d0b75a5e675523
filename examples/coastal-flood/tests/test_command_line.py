"""The package as its user meets it: commands in a fresh directory, every warning an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest


@pytest.fixture
def python(tmp_path):
    """Run Python in an empty directory; returns what it printed."""

    def run(*arguments: str, expect: int = 0) -> str:
        environment = {**os.environ, "OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"}
        done = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_run_from_start_to_end(python, data_zip, tmp_path):
    command = ("-m", "coastal_flood.flood_executor", "run", "--input", str(data_zip))
    printed = python(*command, "--output", "results/", "--param", "end_time=4")
    assert "Completed" in printed
    assert "flooded 16" in printed
    assert "Warning" not in printed

    (output,) = (tmp_path / "results").glob("*.gpkg")
    result = gpd.read_file(output)
    assert len(result) == 10920
    assert result["year_flooded"].max() == 4
    record = json.loads(output.with_suffix(".record.json").read_text())
    assert record["model_name"] == "flood_vector"
    assert record["model_commit"] == "coastal-flood==0.1.0"
    assert record["artifacts"]["output"]


def test_two_runs_write_the_same_bytes(python, data_zip, tmp_path):
    for _ in range(2):
        python("-m", "coastal_flood.flood_executor", "run", "-i", str(data_zip), "-o", "results/")
    one, other = (path.read_bytes() for path in (tmp_path / "results").glob("*.gpkg"))
    assert one == other


def test_bad_parameter_ends_with_the_sentence(python, data_zip):
    printed = python(
        *("-m", "coastal_flood.flood_executor", "run", "--input", str(data_zip)),
        *("--param", "taxa_elevacao=-1"),
        expect=1,
    )
    assert printed.rstrip().endswith("it must be a number of metres per year, 0 or more.")


def test_validate_checks_the_contract(python):
    assert "All 8 checks passed" in python("-m", "coastal_flood.flood_executor", "validate")


def test_importing_the_package_registers_the_executor(python):
    printed = python(
        "-c",
        "import coastal_flood; from dissmodel.executor import ExecutorRegistry as r;"
        "print(r.list(), r.get('flood_vector') is coastal_flood.FloodVectorExecutor)",
    )
    assert printed.split() == ["['flood_vector']", "True"]


def test_importing_the_package_from_a_module_run_with_m_registers_the_executor(python, tmp_path):
    Path(tmp_path / "worker.py").write_text(
        "import coastal_flood\n"
        "from dissmodel.executor import ExecutorRegistry\n"
        "print(ExecutorRegistry.get('flood_vector').__module__)\n"
    )
    assert python("-m", "worker").strip() == "coastal_flood.flood_executor"
