"""What one run may take: the operator's limits, and what a spec makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissmodel_platform.execution.limits import RunLimits, shown_size
from dissmodel_platform.registry.resources import Resources
from dissmodel_platform.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path, run_timeout_seconds=100, run_memory_bytes=10**9, run_processes=50
    )


def test_a_spec_narrows_the_operators_limits_and_widens_none(settings: Settings) -> None:
    smaller = RunLimits.of(settings, Resources(memory=10**6, seconds=5, processes=3))
    assert (smaller.memory_bytes, smaller.seconds, smaller.processes) == (10**6, 5, 3)
    larger = RunLimits.of(settings, Resources(memory=10**12, seconds=10**6, processes=10**6))
    assert (larger.memory_bytes, larger.seconds, larger.processes) == (10**9, 100, 50)


def test_a_spec_limits_what_the_operator_does_not(settings: Settings) -> None:
    assert RunLimits.of(settings, Resources()).cpu_seconds == 0
    assert RunLimits.of(settings, Resources(cpu_seconds=7)).cpu_seconds == 7


def test_the_number_of_threads_is_the_specs_alone(settings: Settings) -> None:
    assert RunLimits.of(settings, Resources()).cores == 1
    assert RunLimits.of(settings, Resources(cores=4)).cores == 4


def test_the_kernel_holds_each_process_to_memory_and_file_size() -> None:
    limits = RunLimits(1.0, memory_bytes=5, disk_bytes=6).of_each_process()
    assert limits == {"RLIMIT_CORE": 0, "RLIMIT_DATA": 5, "RLIMIT_FSIZE": 6}
    assert RunLimits(1.0).of_each_process() == {"RLIMIT_CORE": 0}


def test_sizes_as_people_read_them() -> None:
    assert [shown_size(n) for n in (400_000_000, 2_147_483_648)] == ["400 MB", "2.15 GB"]
