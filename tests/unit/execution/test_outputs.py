"""What counts as a result: regular files only, and which of them is the main one."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from dissmodel_platform.errors import ModelFailed
from dissmodel_platform.execution.outputs import (
    Outputs,
    collect_outputs,
    list_files,
    verified_artifacts,
)
from dissmodel_platform.storage.objects import open_object_store
from dissmodel_platform.types import ExperimentId

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
    return await collect_outputs(outputs, ID, SEEN_ID, output_path, store)


def write(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_files_are_listed_by_their_names_below_the_directory(outputs: Path) -> None:
    write(outputs, "b.txt", "a/z.txt", "a/deep/er/c.txt", ".hidden", "maré.txt", "two\nlines")
    (outputs / "empty").mkdir()
    files, refused = list_files(outputs)
    assert files == [".hidden", "a/deep/er/c.txt", "a/z.txt", "b.txt", "maré.txt", "two\nlines"]
    assert refused == []


def test_links_and_special_files_are_refused_and_not_followed(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "elsewhere", "secret.txt")
    write(outputs, "kept.txt", "below/kept.txt")
    (outputs / "to-a-file").symlink_to(tmp_path / "elsewhere" / "secret.txt")
    (outputs / "to-a-directory").symlink_to(tmp_path / "elsewhere")
    (outputs / "below" / "to-the-top").symlink_to("..")
    (outputs / "to-nothing").symlink_to("nowhere")
    (outputs / "to-itself").symlink_to("to-itself")
    (outputs / "to-a-sibling").symlink_to("kept.txt")
    os.mkfifo(outputs / "a-fifo")
    os.mkfifo(outputs / "below" / "a-fifo")
    monkeypatch.chdir(outputs)  # an address of a socket must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("a-socket")
        files, refused = list_files(outputs)
    assert files == ["below/kept.txt", "kept.txt"]
    assert refused == [
        "a-fifo",
        "a-socket",
        "below/a-fifo",
        "below/to-the-top",
        "to-a-directory",
        "to-a-file",
        "to-a-sibling",
        "to-itself",
        "to-nothing",
    ]


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
    assert found.refused == ("link",)
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
        "link.gpkg",
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
    (outputs / "link.gpkg").symlink_to("a/result.gpkg")
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


async def test_only_checksums_of_what_was_collected_are_kept(outputs: Path) -> None:
    write(outputs, "main.tif", "map.png")
    found = await collect(outputs, "main.tif")
    assert found.main is not None
    by_name = {artifact.name: artifact.sha256 for artifact in found.artifacts}
    claimed = {"map": by_name["map.png"], "invented": "0" * 64, "output": "1" * 64, "odd": None}
    assert verified_artifacts(claimed, found) == {
        "map": by_name["map.png"],
        "output": by_name["main.tif"],
    }
