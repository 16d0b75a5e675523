"""What counts as a result: regular files only, and which of them is the main one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.errors import InvalidInput, ModelFailed
from dissmodel_platform.execution import outputs as outputs_module
from dissmodel_platform.execution.headers.reader import HeaderReader
from dissmodel_platform.execution.output_tree import OutputLimits
from dissmodel_platform.execution.outputs import Outputs, collect_outputs, verified_artifacts
from dissmodel_platform.storage.objects import ObjectStore, StoredObject, open_object_store
from dissmodel_platform.types import ExperimentId
from tests.geotiffs import TIFF

pytestmark = pytest.mark.anyio

ID = ExperimentId("0123456789abcdef0123456789abcdef")
SEEN_ID = "f" * 32


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    directory = tmp_path / "outputs"
    directory.mkdir()
    return directory


async def collect(outputs: Path, output_path: str | None) -> Outputs:
    store = open_object_store(None, outputs.parent / "objects")
    headers = HeaderReader(outputs)
    try:
        return await collect_outputs(
            outputs, ID, SEEN_ID, output_path, store, OutputLimits(), headers
        )
    finally:
        await headers.close()


def write(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


async def test_what_is_collected_has_address_checksum_size_and_type(outputs: Path) -> None:
    write(outputs, "maps/a.geojson")
    (outputs / "link").symlink_to("maps/a.geojson")
    found = await collect(outputs, None)
    [artifact] = found.artifacts
    assert artifact.name == "maps/a.geojson"
    assert artifact.uri == f"s3://dissmodel-outputs/experiments/{ID}/maps/a.geojson"
    assert artifact.sha256 == hashlib.sha256(b"maps/a.geojson").hexdigest()
    assert artifact.size_bytes == len("maps/a.geojson")
    assert artifact.media_type == "application/geo+json"
    assert list(found.refused) == ["link"]
    assert found.main == artifact


@pytest.mark.parametrize(
    "output_path",
    [
        "a/result.gpkg",
        "./a/result.gpkg",
        "a/../a/result.gpkg",
        "b/../a//result.gpkg",
        "../outputs/a/result.gpkg",
        "{directory}/a/result.gpkg",
        "{directory}/b/../a/result.gpkg",
        "s3://dissmodel-outputs/a/result.gpkg",
        "s3://dissmodel-outputs/experiments/{seen}/a/result.gpkg",
    ],
)
async def test_every_form_of_the_main_files_name_is_understood(
    outputs: Path, output_path: str
) -> None:
    write(outputs, "a/result.gpkg", "b/other.gpkg")
    found = await collect(outputs, output_path.format(directory=outputs, seen=SEEN_ID))
    assert found.main is not None
    assert found.main.name == "a/result.gpkg"


@pytest.mark.parametrize(
    "output_path",
    [
        "missing.gpkg",
        "result.gpkg",
        "../result.gpkg",
        "../../etc/passwd",
        "/etc/passwd",
        "a/result.gpkg.part",
        "a/resul",
        "s3://dissmodel-outputs/result.gpkg",
        f"s3://dissmodel-outputs/experiments/{'0' * 32}/a/result.gpkg",
        "s3://dissmodel-inputs/a/result.gpkg",
        "s3://dissmodel-outputs/../a/result.gpkg",
        "https://example.org/a/result.gpkg",
    ],
)
async def test_a_name_of_what_the_run_did_not_write_fails_the_run(
    outputs: Path, output_path: str
) -> None:
    write(outputs, "a/result.gpkg", "b.txt")
    write(outputs.parent, "result.gpkg")
    with pytest.raises(ModelFailed) as told:
        await collect(outputs, output_path)
    assert repr(output_path) in str(told.value)
    assert "it wrote a/result.gpkg, b.txt" in str(told.value)


async def test_a_run_that_wrote_nothing_says_so(outputs: Path) -> None:
    with pytest.raises(ModelFailed, match="it wrote nothing"):
        await collect(outputs, "result.gpkg")


@pytest.mark.parametrize("output_path", ["a", "a/", "./a", "s3://dissmodel-outputs/a"])
async def test_a_directory_is_no_main_file_but_no_fault_either(
    outputs: Path, output_path: str
) -> None:
    write(outputs, "a/one.tif", "a/two.tif")
    assert (await collect(outputs, output_path)).main is None


@pytest.mark.parametrize("output_path", [None, ""])
async def test_without_a_name_only_a_single_file_is_the_main_one(
    outputs: Path, output_path: str | None
) -> None:
    assert (await collect(outputs, output_path)).main is None
    write(outputs, "one.tif")
    main = (await collect(outputs, output_path)).main
    assert main is not None
    assert main.name == "one.tif"
    write(outputs, "two.tif")
    assert (await collect(outputs, output_path)).main is None


async def test_maps_are_described_and_what_only_is_called_a_map_is_told(outputs: Path) -> None:
    write(outputs, "not-a-map.tif", "notes.txt")
    (outputs / "map.TIF").write_bytes(TIFF)
    found = await collect(outputs, "map.TIF")
    assert [artifact.spatial is not None for artifact in found.artifacts] == [True, False, False]
    assert found.main is not None
    assert found.main.as_json()["spatial"]["width"] == 3
    assert "spatial" not in found.artifacts[1].as_json()
    assert list(found.undescribed) == ["not-a-map.tif"]


async def test_after_a_few_broken_maps_no_more_are_looked_at(outputs: Path) -> None:
    write(outputs, *(f"{number}.gpkg" for number in range(20)))
    assert len((await collect(outputs, None)).undescribed) <= 3 + 4  # four at the same time


async def test_the_main_file_may_not_be_a_link(outputs: Path) -> None:
    write(outputs, "a.gpkg")
    (outputs / "link.gpkg").symlink_to("a.gpkg")
    with pytest.raises(ModelFailed, match=r"to 'link.gpkg', which is no regular file"):
        await collect(outputs, "link.gpkg")


async def test_many_files_are_stored_several_at_a_time_and_listed_in_order(outputs: Path) -> None:
    names = [f"{number:02}/{number}.txt" for number in range(30)]
    write(outputs, *names)
    found = await collect(outputs, None)
    assert [artifact.name for artifact in found.artifacts] == names
    for artifact in found.artifacts:
        assert artifact.sha256 == hashlib.sha256(artifact.name.encode()).hexdigest()


@pytest.mark.parametrize(("large_bytes", "at_once"), [(10**9, 4), (-1, 1)])
async def test_large_files_are_stored_one_by_one(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int, at_once: int
) -> None:
    write(outputs, *(f"{number}.txt" for number in range(12)))
    monkeypatch.setattr(outputs_module, "_LARGE_BYTES", large_bytes)
    put_file, active, most = ObjectStore.put_file, 0, 0

    async def counted(store: ObjectStore, file: Any) -> StoredObject:
        nonlocal active, most
        active += 1
        most = max(most, active)
        try:
            return await put_file(store, file)
        finally:
            active -= 1

    monkeypatch.setattr(ObjectStore, "put_file", counted)
    assert len((await collect(outputs, None)).artifacts) == 12
    assert most == at_once


async def test_a_name_that_no_address_can_have_fails_before_anything_is_stored(
    outputs: Path,
) -> None:
    write(outputs, "a.txt")
    Path(os.fsdecode(os.fsencode(outputs) + b"/\xff.txt")).write_text("x")
    with pytest.raises(InvalidInput, match="output name"):
        await collect(outputs, None)
    assert not list((outputs.parent / "objects" / "blobs").rglob("*"))


CLAIMS = {
    "output": "main.tif",
    "map.png": "a/map.png",
    "a/map.png": "a/map.png",
    "any label": "a/map.png",
}


@pytest.mark.parametrize("name", CLAIMS)
async def test_a_true_checksum_is_kept_under_the_executors_own_name(
    outputs: Path, name: str
) -> None:
    write(outputs, "main.tif", "a/map.png")
    sha256 = hashlib.sha256(CLAIMS[name].encode()).hexdigest()
    found = await collect(outputs, "main.tif")
    verified, faults = verified_artifacts({name: sha256}, found)
    assert (verified[name], faults) == (sha256, [])


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("value", ["another file's", "invented", None, 7, "x" * 10_000])
async def test_a_false_checksum_is_not_kept_and_told(
    outputs: Path, name: str, value: object
) -> None:
    write(outputs, "main.tif", "a/map.png")
    found = await collect(outputs, "main.tif")
    if value == "another file's":
        other = next(file for file in ("main.tif", "a/map.png") if file != CLAIMS[name])
        value = hashlib.sha256(other.encode()).hexdigest()
        if name == "any label":
            return
    verified, [fault] = verified_artifacts({name: value}, found)
    assert verified == {"output": hashlib.sha256(b"main.tif").hexdigest()}
    assert repr(name) in fault
    assert len(fault) < 400


async def test_output_is_a_label_where_there_is_no_main_file(outputs: Path) -> None:
    write(outputs, "cube.zarr/0")
    found = await collect(outputs, "cube.zarr")
    claimed = {"output": hashlib.sha256(b"cube.zarr/0").hexdigest()}
    assert verified_artifacts(claimed, found) == (claimed, [])
