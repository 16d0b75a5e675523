"""The suites of the packages that travel with the platform, each in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.uv import Uv
from dissmodel_platform.environments.workshop import Room, Workshop
from dissmodel_platform.sandbox.walls import Walls

ROOT = Path(__file__).parents[2]
BUILTIN = ROOT / "src" / "dissmodel_platform" / "builtin_executors"
EXAMPLE = ROOT / "examples" / "coastal-flood"


@pytest.mark.parametrize(
    ("requirements", "suite"),
    [
        ([str(BUILTIN), "pytest>=8.3", "scipy>=1.12"], ROOT / "tests" / "builtin_executors"),
        ([f"{EXAMPLE}[test]"], EXAMPLE),
    ],
    ids=["built-in executors", "coastal-flood"],
)
def test_a_packages_own_suite_passes_where_only_the_package_is_installed(
    requirements: list[str], suite: Path, packages_directory: Path
) -> None:
    place = packages_directory / "suites" / suite.name
    place.mkdir(parents=True)
    uv = Uv(Workshop(Walls(), Bounds(600)))
    room = Room(place, network=True)
    python = place / "venv" / "bin" / "python"
    for arguments in (
        ["venv", "--quiet", "--python", sys.executable, str(place / "venv")],
        ["pip", "install", "--quiet", "--python", str(python), *requirements],
    ):
        done = uv.run(arguments, room, cache=packages_directory / "cache")
        assert done.exit_code == 0, done.output_tail

    report = place / "report.xml"
    environment = {
        **uv.environment(packages_directory / "cache"),
        "HOME": str(place / "home"),
        "PYTHONPYCACHEPREFIX": str(place / "bytecode"),  # none beside the sources
    }
    suite_run = subprocess.run(
        [str(python), "-P", "-m", "pytest", "-q", f"--junitxml={report}"],
        cwd=suite,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert suite_run.returncode == 0, suite_run.stdout[-5_000:]
    counts = ElementTree.parse(report).getroot().find("testsuite")
    assert counts is not None
    assert int(counts.attrib["tests"]) > 0
    assert int(counts.attrib["skipped"]) == 0
