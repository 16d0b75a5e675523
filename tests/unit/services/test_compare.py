"""Identical means the same bytes; what is different says where, whatever is said of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissmodel_platform.environments.layout import Layout
from dissmodel_platform.environments.store import Environment, EnvironmentStore
from dissmodel_platform.errors import BuildInterrupted
from dissmodel_platform.execution.outputs import Artifact
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.services.compare import Comparer, first_difference
from dissmodel_platform.storage.objects import ObjectStore, open_object_store
from dissmodel_platform.types import EnvironmentKey, Sha256

pytestmark = pytest.mark.anyio

ENVIRONMENT = Environment(EnvironmentKey("0" * 64), Path("/nowhere"), "model")


class Bench:
    """A real store, and an environment that says of maps what a test has it say."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.objects: ObjectStore = open_object_store(None, directory / "objects")
        self.layout = Layout(directory / "packages")
        self.layout.make()
        self.asked: list[tuple[str, bytes, bytes]] = []
        self.answer: Any = None

    async def keep(self, files: dict[str, bytes]) -> dict[str, Sha256]:
        kept = {}
        for name, content in files.items():
            (self.directory / "file").write_bytes(content)
            kept[name] = (await self.objects.put_file(self.directory / "file")).sha256
        return kept

    def opened(self, _: Environment, before: Path, after: Path) -> Any:
        self.asked.append((before.suffix, before.read_bytes(), after.read_bytes()))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def compare(self, before: dict[str, bytes], after: dict[str, bytes]) -> dict[str, Any]:
        old, new = await self.keep(before), await self.keep(after)
        outputs = [{"name": name, "sha256": sha256} for name, sha256 in old.items()]
        original = SimpleNamespace(id="0" * 32, outcome={"outputs": outputs})
        environments = SimpleNamespace(layout=self.layout, compare=self.opened)
        comparer = Comparer(self.objects, cast(EnvironmentStore, environments))
        found = await comparer.compare(
            cast(Experiment, original),
            [Artifact(name, "", sha256, 1, "") for name, sha256 in new.items()],
            ENVIRONMENT,
        )
        assert list(self.layout.scratch.iterdir()) == []
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_same_files_are_identical_whatever_their_order(bench: Bench) -> None:
    found = await bench.compare({"a": b"1", "b": b"2"}, {"b": b"2", "a": b"1"})
    assert (found["of"], found["verdict"]) == ("0" * 32, "identical")
    assert [entry["name"] for entry in found["artifacts"]] == ["a", "b"]
    assert all(entry["identical"] for entry in found["artifacts"])


async def test_two_runs_without_outputs_are_identical(bench: Bench) -> None:
    assert await bench.compare({}, {}) == {
        "of": "0" * 32,
        "verdict": "identical",
        "artifacts": [],
    }


async def test_a_text_that_differs_says_from_which_byte_on_and_both_sizes(bench: Bench) -> None:
    found = await bench.compare({"a": b"1", "b.txt": b"one two"}, {"a": b"1", "b.txt": b"one 2"})
    assert found["verdict"] == "different"
    artifact = found["artifacts"][1]
    assert (artifact["identical"], artifact["verdict"]) == (False, "different")
    assert artifact["original_sha256"] != artifact["reproduced_sha256"]
    assert artifact["difference"] == "the bytes differ from byte 4 on; there are 5, there were 7"
    assert artifact["first_differing_byte"] == 4
    assert (artifact["original_size_bytes"], artifact["reproduced_size_bytes"]) == (7, 5)
    assert bench.asked == []


async def test_a_file_that_one_side_lacks_is_a_difference(bench: Bench) -> None:
    [lost] = (await bench.compare({"a": b"1"}, {}))["artifacts"]
    assert lost["reproduced_sha256"] is None
    assert (lost["verdict"], lost["difference"]) == ("different", "only the original has it")
    found = await bench.compare({}, {"a": b"1"})
    assert found["verdict"] == "different"
    assert found["artifacts"][0]["difference"] == "only the reproduction has it"


RASTER = {"tool": "rasterio 1", "differences": [], "cells": 9, "largest_difference": 0.0}


async def test_equal_content_is_neither_identical_nor_different(bench: Bench) -> None:
    bench.answer = {**RASTER, "differing_cells": 0, "equal": True}
    found = await bench.compare({"a.TIF": b"1", "b": b"2"}, {"a.TIF": b"2", "b": b"2"})
    assert found["verdict"] == "equal content"
    assert (found["artifacts"][0]["identical"], found["artifacts"][0]["cells"]) == (False, 9)
    assert bench.asked == [(".tif", b"1", b"2")]
    found = await bench.compare({"a.tif": b"1", "b": b"2"}, {"a.tif": b"2", "b": b"3"})
    assert found["verdict"] == "different"


async def test_how_maps_differ_is_one_sentence(bench: Bench) -> None:
    bench.answer = {
        **RASTER,
        "differing_cells": 2,
        "largest_difference": 0.25,
        "differences": ["CRS: EPSG:2, was EPSG:1"],
        "equal": False,
    }
    found = await bench.compare({"a.tif": b"1"}, {"a.tif": b"2"})
    assert found["artifacts"][0]["difference"] == (
        "2 of 9 cells differ, by at most 0.25; CRS: EPSG:2, was EPSG:1"
    )


@pytest.mark.parametrize(
    "answer",
    [
        {"tool": "", "reason": "rasterio is not installed there", "equal": False},
        {"tool": "", "reason": "nothing", "equal": True},
        {**RASTER, "differing_cells": 1, "equal": True},
        {**RASTER, "differing_cells": "0", "equal": True},
        {"tool": "rasterio", "equal": "yes"},
        [],
        None,
        ValueError("opening them ended the interpreter (exit code -11)"),
        OSError(28, "No space left on device"),
    ],
)
async def test_nothing_but_a_whole_answer_makes_content_equal(bench: Bench, answer: Any) -> None:
    bench.answer = answer
    found = await bench.compare({"a.tif": b"1"}, {"a.tif": b"2"})
    assert found["verdict"] == "different"
    assert found["artifacts"][0]["difference"]


async def test_an_environment_that_cannot_open_a_map_is_named_as_the_reason(bench: Bench) -> None:
    bench.answer = {"tool": "", "reason": "rasterio is not installed there", "equal": False}
    [artifact] = (await bench.compare({"a.tif": b"1"}, {"a.tif": b"2"}))["artifacts"]
    assert artifact["difference"] == (
        "differs; the model's environment cannot compare the content: "
        "rasterio is not installed there"
    )
    assert artifact["first_differing_byte"] == 0


async def test_an_original_whose_bytes_are_gone_is_different_and_says_so(bench: Bench) -> None:
    kept = await bench.keep({"a": b"1"})
    await bench.objects.delete(kept["a"])
    bench.keep = _once(bench.keep, {"a": kept["a"]})  # type: ignore[method-assign]
    [artifact] = (await bench.compare({"a": b"1"}, {"a": b"2"}))["artifacts"]
    assert artifact["difference"] == "the original's bytes are not in the store any more"


def _once(keep: Any, first: dict[str, Sha256]) -> Any:
    answers = [first]

    async def kept(files: dict[str, bytes]) -> dict[str, Sha256]:
        return answers.pop() if answers else cast(dict[str, Sha256], await keep(files))

    return kept


async def test_a_worker_that_is_being_stopped_gives_no_verdict(bench: Bench) -> None:
    bench.answer = BuildInterrupted("The worker is being stopped.")
    with pytest.raises(BuildInterrupted):
        await bench.compare({"a.tif": b"1"}, {"a.tif": b"2"})


@settings(deadline=None)
@given(st.binary(max_size=50), st.binary(max_size=50))
def test_the_first_difference_is_found_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, old: bytes, new: bytes
) -> None:
    place = tmp_path_factory.getbasetemp()
    (place / "old").write_bytes(old)
    (place / "new").write_bytes(new)
    shorter = min(len(old), len(new))
    expected = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    assert first_difference(place / "old", place / "new") == expected


def test_a_difference_far_into_a_file_is_found(tmp_path: Path) -> None:
    content = bytearray(3 * 1024**2)
    (tmp_path / "old").write_bytes(content)
    content[2 * 1024**2 + 5] = 1
    (tmp_path / "new").write_bytes(content)
    assert first_difference(tmp_path / "old", tmp_path / "new") == 2 * 1024**2 + 5
