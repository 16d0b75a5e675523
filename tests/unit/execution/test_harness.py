"""The parts of the harness that need no model: clocks, modules, limits, events."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import random
import resource
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.execution.harness.events import EventWriter
from dissmodel_platform.execution.harness.inspection import ImportReport, top_level_modules
from dissmodel_platform.execution.harness.lifecycle import run_experiment, seed_generators
from dissmodel_platform.execution.harness.progress import ProgressSampler, _clock
from dissmodel_platform.execution.harness.server import thread_count
from dissmodel_platform.execution.paths import HARNESS


@pytest.fixture
def events() -> Iterator[tuple[EventWriter, Any]]:
    """Open a pipe: the writer, and a function that returns what it has written."""
    reading, writing = os.pipe()

    def written() -> list[dict[str, Any]]:
        os.set_blocking(reading, False)
        with contextlib.suppress(BlockingIOError):
            return [json.loads(line) for line in os.read(reading, 10**6).splitlines()]
        return []

    yield EventWriter(writing), written
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def distribution(directory: Path, name: str, files: dict[str, str]) -> None:
    """Lay out an installed distribution with the given files and its list of them."""
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    (directory / info).mkdir(parents=True)
    (directory / info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0")
    listed = []
    for file, content in files.items():
        path = directory / (f"{info}/{file}" if file == "top_level.txt" else file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        listed.append(path.relative_to(directory).as_posix())
    (directory / info / "RECORD").write_text("".join(f"{file},,\n" for file in listed))


@pytest.mark.parametrize(
    ("files", "modules"),
    [
        ({"flood/__init__.py": "", "flood/grid.py": ""}, ["flood"]),
        ({"flood/__init__.py": "", "tide/__init__.py": ""}, ["flood", "tide"]),
        ({"flood/__init__.py": "", "loose.py": ""}, ["flood", "loose"]),
        ({"flood/__init__.py": "", "tests/test_flood.py": "", "docs/conf.py": ""}, ["flood"]),
        ({"flood/__init__.py": "", "_private.py": "", "data/grid.csv": ""}, ["flood"]),
        ({"space/flood/model.py": ""}, ["space"]),
        ({"top_level.txt": "tide\nflood\n", "flood/__init__.py": ""}, ["flood", "tide"]),
        ({"top_level.txt": "flood\ntests\nnot-a-name\n"}, ["flood"]),
        ({"top_level.txt": "tests\n"}, ["coastal_flood"]),
        ({"_coastal_flood.pth": "/srv/flood"}, ["coastal_flood"]),
        ({"__editable___coastal_flood_1_0_finder.py": ""}, ["coastal_flood"]),
        ({}, ["coastal_flood"]),
    ],
)  # fmt: skip
def test_the_modules_of_a_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], modules: list[str]
) -> None:
    distribution(tmp_path, "coastal-flood", files)
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.distribution("coastal-flood").version == "1.0"
    assert top_level_modules("coastal-flood") == modules


def test_a_distribution_that_is_not_there_is_called_by_its_name() -> None:
    assert top_level_modules("a-package.nobody-has") == ["a_package_nobody_has"]
    assert top_level_modules("") == [""]


def test_a_failed_import_names_the_missing_module() -> None:
    report = ImportReport.failed(ModuleNotFoundError("No module named 'gdal'", name="gdal"))
    assert (report.missing_module, report.error) == (
        "gdal", "ModuleNotFoundError: No module named 'gdal'",
    )  # fmt: skip
    assert ImportReport.failed(RuntimeError("x")).missing_module == ""


class Odd:
    """A clock of a model's own."""

    def __float__(self) -> float:
        raise RuntimeError("no number")


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        ((2, 0, 10), (2.0, 0.0, 10.0)),
        ((Decimal("2.5"), "0", 10), (2.5, 0.0, 10.0)),
        ((0, 0, 0), None),
        ((0, 1, 0), None),
        ((None, 0, 1), None),
        (("2030-01-01", 0, 1), None),
        ((0, 0, float("inf")), None),
        ((float("nan"), 0, 1), None),
        ((10**400, 0, 1), None),
        ((Odd(), 0, 1), None),
    ],
)
def test_only_a_clock_of_numbers_is_reported(clock: tuple[Any, Any, Any], expected: Any) -> None:
    now, start, end = clock
    current = types.SimpleNamespace(_now=now, start_time=start, end_time=end)
    module = types.SimpleNamespace(Environment=types.SimpleNamespace(_current=current))
    assert _clock(module) == expected


def test_a_model_without_a_clock_has_none() -> None:
    assert _clock(None) is None
    assert _clock(types.SimpleNamespace(Environment=types.SimpleNamespace(_current=None))) is None


def test_the_sampler_reports_each_time_once_and_the_last_one_always(
    events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, written = events
    current = types.SimpleNamespace(_now=0, start_time=0, end_time=3)
    module = types.SimpleNamespace(Environment=types.SimpleNamespace(_current=current))
    monkeypatch.setitem(sys.modules, "dissmodel.core.environment", module)
    with ProgressSampler(writer) as sampler:
        sampler._report()
        sampler._report()
        current._now = 3
    assert written() == [
        {"event": "progress", "time": now, "start": 0.0, "end": 3.0} for now in (0.0, 3.0)
    ]
    assert not sampler._thread.is_alive()


def test_events_are_whole_lines_from_several_threads(events: Any) -> None:
    writer, written = events
    threads = [
        threading.Thread(target=lambda: [writer.write("x", text="y" * 100) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written() == [{"event": "x", "text": "y" * 100}] * 200


def test_a_writer_that_nobody_hears_is_silent() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = EventWriter(writing)
    writer.write("x")  # a broken pipe
    os.close(writing)
    writer.write("x")  # a model that has closed every descriptor


def test_the_generators_are_seeded_alike() -> None:
    state = random.getstate()
    try:
        seed_generators(2**40 + 7)
        first = random.random()
        seed_generators(2**40 + 7)
        assert random.random() == first
    finally:
        random.setstate(state)


@pytest.mark.parametrize("request_", ["", "{", "[]", "{}"])
def test_a_request_that_cannot_be_read_is_an_error_and_no_crash(
    tmp_path: Path, events: Any, request_: str
) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "request.json").write_text(request_)
    assert run_experiment(tmp_path, events[0]) == 1
    result = json.loads((tmp_path / "result" / "result.json").read_text())
    assert result["error"]["kind"] == "raised"
    assert not (tmp_path / "result" / "result.json.part").exists()


def test_threads_are_counted_those_of_python_included() -> None:
    before = thread_count()
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    assert thread_count() == before + 1
    release.set()
    thread.join()


LIMIT = """
import resource, sys
from dissmodel_platform.execution.harness.server import limit_resource
number = resource.RLIMIT_NOFILE
resource.setrlimit(number, (100, 100))
limit_resource("RLIMIT_NOFILE", int(sys.argv[1]))
print(*resource.getrlimit(number))
"""


@pytest.mark.parametrize(("asked", "given"), [(50, 50), (100, 100), (5000, 100)])
def test_a_limit_is_lowered_and_never_raised(asked: int, given: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMIT, str(asked)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(given)] * 2
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100  # ours is as it was


def test_the_harness_is_the_standard_librarys_and_its_own() -> None:
    """It runs in the models' environments, where nothing of ours is installed."""
    allowed = set(sys.stdlib_module_names) | {"__future__"}
    for file in HARNESS.parent.glob("*.py"):
        for line in file.read_text().splitlines():
            words = line.split()
            if line.startswith(("import ", "from ")) and not words[1].startswith("."):
                assert words[1].partition(".")[0] in allowed, (file.name, line)


def test_the_harness_puts_nothing_on_the_path_of_modules(tmp_path: Path) -> None:
    (tmp_path / "flood.py").write_text(
        "import sys\nprint([p for p in sys.path if 'dissmodel_platform' in p])\n"
    )
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable, "-P", "-s", str(HARNESS), "check",
            "--module", "flood", "--report", str(report),
        ],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "[]"
    assert json.loads(report.read_text())["missing_module"] == "dissmodel"
