"""How much of a machine a run may take, as a spec says it."""

from __future__ import annotations

import pytest

from dissmodel_platform.registry.resources import Resources, read_resources, resource_faults
from dissmodel_platform.registry.spec import parse_spec


@pytest.mark.parametrize(
    ("written", "size"),
    [("4 GiB", 4 * 2**30), ("1.5GB", 1_500_000_000), ("10 kB", 10_000), (2048, 2048), ("7 B", 7)],
)
def test_sizes_are_bytes_or_have_a_unit(written: object, size: int) -> None:
    assert read_resources({"memory": written}).memory == size
    assert read_resources({"disk": written}).disk == size


@pytest.mark.parametrize("written", ["4", "4 gibs", "GiB", "-1 GB", "", 0, -1, 1.5, True, 2**70])
def test_what_is_no_size_is_told_and_not_read(written: object) -> None:
    assert read_resources({"memory": written}) == Resources()
    [(key, fault)] = resource_faults({"memory": written})
    assert key == "memory"
    assert "4 GiB" in fault


def test_counts_and_durations() -> None:
    table = {"cores": 4, "processes": 20, "seconds": 1.5, "cpu_seconds": 60}
    assert read_resources(table) == Resources(cores=4, processes=20, seconds=1.5, cpu_seconds=60.0)
    assert list(resource_faults(table)) == []
    for key, value in (("cores", 1.5), ("processes", 0), ("seconds", "60"), ("cpu_seconds", -1)):
        assert [found for found, _ in resource_faults({key: value})] == [key]


def test_a_spec_with_a_fault_is_refused_and_one_with_an_unknown_key_is_told() -> None:
    head = '[model]\nclass = "flood"\n[model.resources]\n'
    refused = parse_spec("models/flood.toml", head + 'memory = "much"\n')
    assert [(p.code, p.line) for p in refused.errors] == [("invalid-resource", 4)]
    parsed = parse_spec("models/flood.toml", head + "memroy = 1\n")
    assert parsed.spec is not None
    [problem] = parsed.problems
    assert (problem.code, problem.line) == ("unknown-resource", 4)
    assert "memory" in problem.message
