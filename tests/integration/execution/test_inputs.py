"""Inside a run every input is a local file; the record keeps the addresses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore
import pytest

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.storage.backend import open_bucket

pytestmark = pytest.mark.anyio


async def test_addresses_inside_parameters_are_local_files_under_their_own_names(lab: Any) -> None:
    demand = await lab.upload("year,area\n2030,7\n", "demand.csv")
    table = await lab.upload("nested", "table#1.txt")
    source = await lab.upload("source", "grid.json")
    parameters = {"demand_csv": demand, "scenarios": [{"table": table}]}
    experiment = await lab.run("reads-parameters", parameters, input_dataset=source)
    seen = json.loads(await lab.result(experiment))
    assert (seen["text"], seen["nested"]) == ("year,area\n2030,7\n", "nested")
    assert (seen["name"], seen["mode"]) == ("demand.csv", "0o444")
    assert Path(seen["source"]).name == "grid.json"
    assert experiment.submission.parameters == parameters
    assert experiment.submission.source.uri == source
    inputs = {entry["name"]: entry for entry in experiment.outcome["inputs"]}
    assert set(inputs) == {
        "input_dataset", "parameters.demand_csv", "parameters.scenarios.0.table",
    }  # fmt: skip
    assert inputs["parameters.demand_csv"]["uri"] == demand
    assert inputs["parameters.demand_csv"]["size_bytes"] == 17


async def test_a_model_that_writes_into_its_input_does_not_change_what_the_next_one_reads(
    lab: Any,
) -> None:
    grid = await lab.upload("as it was", "grid.gpkg")
    for _ in range(3):
        experiment = await lab.run("spoils-input", input_dataset=grid)
        assert json.loads(await lab.result(experiment))["before"] == "as it was"


async def test_a_file_below_a_listed_directory_is_read_and_kept_for_reproduction(
    lab: Any, lab_home: Path
) -> None:
    shared = lab_home / "shared"
    shared.mkdir(exist_ok=True)
    (shared / "grid.json").write_text("[1.0]")
    address = str(shared / "grid.json")
    experiment = await lab.run("growth", input_dataset=address)
    assert experiment.status == "completed", await lab.log(experiment)
    (shared / "grid.json").write_text("[2.0]")
    again = await lab.reproduce(experiment)
    assert again.outcome["reproduction"]["verdict"] == "identical"


@pytest.mark.parametrize(
    "address",
    [
        "s3://dissmodel-inputs/inputs/none/there.zip",
        "/etc/passwd",
        "file:///etc/passwd",
        "shared/grid.json",
        "ftp://example.org/x",
        "s3://another-bucket/grid.json",
        "/vsizip/s3://another-bucket/grid.zip/cells.shp",
        "HTTP://127.0.0.1/x",
        "http://127.0.0.1/x",
        "http://[/x",
        "/\0",
        "/\ud800",
        "{shared}/../api-key",
        "{shared}/none.json",
        "{shared}/" + "x" * 300,
        "{shared}/circle",
        "{shared}/outside",
        "{shared}",
    ],
)
async def test_an_input_that_cannot_be_read_is_refused_before_anything_is_queued(
    lab: Any, lab_home: Path, address: str
) -> None:
    shared = lab_home / "shared"
    shared.mkdir(exist_ok=True)
    for link, target in (("circle", "circle"), ("outside", "/etc/passwd")):
        (shared / link).unlink(missing_ok=True)
        (shared / link).symlink_to(target)
    before = await lab.database.fetch_one("SELECT count(*) AS n FROM experiments")
    with pytest.raises(InvalidInput) as refused:
        await lab.submit("growth", input_dataset=address.replace("{shared}", str(shared)))
    assert list(refused.value.fields) == ["input_dataset"]
    if address != "shared/grid.json" and not address.startswith("ftp://"):  # texts like any other
        parameters = {"tables": [address.replace("{shared}", str(shared))]}
        with pytest.raises(InvalidInput) as refused:
            await lab.submit("growth", parameters)
        assert "parameters.tables.0" in refused.value.fields
    assert await lab.database.fetch_one("SELECT count(*) AS n FROM experiments") == before


async def test_an_input_that_is_gone_from_the_store_fails_with_its_address(lab: Any) -> None:
    grid = await lab.upload("to be removed", "grid.json")
    experiment = await lab.submit("growth", input_dataset=grid)
    await lab.parts.store.delete(experiment.input_sha256)
    await lab.runner().run(experiment.id)
    assert (await lab.get(experiment)).status == "failed"
    assert (await lab.last_line(experiment)).startswith(f"The input {grid} (input_dataset)")


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_path_below_a_listed_directory_inside_parameters_is_a_local_file(
    lab: Any, lab_home: Path
) -> None:
    shared = lab_home / "shared"
    shared.mkdir(exist_ok=True)
    (shared / "demand.csv").write_text("a table")
    uploaded = await lab.upload("PK", "tables.zip")
    parameters = {
        "demand_csv": (shared / "demand.csv").as_uri(),
        "scenarios": [{"table": str(shared / "demand.csv")}],
        "layer": f"/vsizip/{uploaded}/inside/cells.shp",
        "separator": "/",
    }
    experiment = await lab.run("reads-parameters", parameters)
    seen = json.loads(await lab.result(experiment))
    assert (seen["text"], seen["nested"], seen["mode"]) == ("a table", "a table", "0o444")
    assert experiment.submission.parameters == parameters
    inputs = {entry["name"]: entry["uri"] for entry in experiment.outcome["inputs"]}
    assert inputs["parameters.layer"] == uploaded


async def test_an_uploaded_shapefile_brings_its_side_files_and_reproduces_with_them(
    lab: Any,
) -> None:
    label = uuid4().hex
    shp = await lab.upload("shapes", "grid.shp", label=label)
    await lab.upload("index", "grid.shx", label=label)
    with pytest.raises(InvalidInput, match=r"has no \.dbf beside it") as refused:
        await lab.submit("reads-beside", input_dataset=shp)
    assert list(refused.value.fields) == ["input_dataset"]
    await lab.upload("table", "grid.dbf", label=label)
    await lab.upload("crs", "grid.prj", label=label)
    experiment = await lab.run("reads-beside", input_dataset=shp)
    seen = json.loads(await lab.result(experiment))
    assert seen["input"] == "grid.shp"
    read = {"grid.shp": "shapes", "grid.shx": "index", "grid.dbf": "table", "grid.prj": "crs"}
    assert seen["texts"] == read
    inputs = {entry["name"]: entry["sha256"] for entry in experiment.outcome["inputs"]}
    assert inputs == {
        "input_dataset": hash_of("shapes"),
        "input_dataset.shx": hash_of("index"),
        "input_dataset.dbf": hash_of("table"),
        "input_dataset.prj": hash_of("crs"),
    }
    await lab.upload("another table", "grid.dbf", label=label)
    again = await lab.reproduce(experiment)
    assert json.loads(await lab.result(again))["texts"] == read
    assert again.outcome["reproduction"]["verdict"] == "identical"


async def test_a_shapefile_on_the_web_is_staged_recorded_and_reproduced_without_the_web(
    lab: Any, website: Any
) -> None:
    read = {"grid.shp": "shapes", "grid.shx": "index", "grid.dbf": "table", "grid.cpg": "UTF-8"}
    for name, text in read.items():
        (website.directory / name).write_text(text)
    open_lab = lab.allowing(allow_private_inputs=True)
    uri = f"{website.url}/grid.shp?version=1".replace("http", "HTTP")
    experiment = await open_lab.run("reads-beside", {"same": uri}, input_dataset=uri)
    seen = json.loads(await lab.result(experiment))
    assert seen["texts"] == read
    assert Path(seen["parameters"]["same"]).name == "grid.shp"
    assert experiment.input_sha256 == hash_of("shapes")
    assert experiment.submission.source.type == "http"
    assert {entry["name"] for entry in experiment.outcome["inputs"]} == {
        f"{field}{suffix}"
        for field in ("input_dataset", "parameters.same")
        for suffix in ("", ".shx", ".dbf", ".cpg")
    }
    for name in read:
        (website.directory / name).unlink()
    again = await lab.reproduce(experiment)
    assert json.loads(await lab.result(again))["texts"] == read
    gone = await open_lab.run("reads-beside", input_dataset=uri)
    assert gone.status == "failed"
    assert "answered 404" in await lab.last_line(gone)


async def test_a_private_address_is_read_where_the_operator_allows_it_only(
    lab: Any, website: Any
) -> None:
    (website.directory / "grid.json").write_text("[1.0]")
    uri = f"{website.url}/grid.json"
    with pytest.raises(InvalidInput, match="private or local address"):
        await lab.submit("growth", input_dataset=uri)
    accepted = await lab.allowing(allow_private_inputs=True).submit("growth", input_dataset=uri)
    await lab.runner().run(accepted.id)  # of a worker whose operator does not
    assert "private or local address" in await lab.last_line(accepted)


async def test_a_checksum_of_an_upload_is_compared_at_once(lab: Any) -> None:
    grid = await lab.upload("[1.0]", "grid.json")
    right = hash_of("[1.0]").upper()
    accepted = await lab.run("growth", input_dataset=grid, input_sha256=right)
    assert accepted.status == "completed", await lab.log(accepted)
    with pytest.raises(InvalidInput) as refused:
        await lab.submit("growth", input_dataset=grid, input_sha256="0" * 64)
    assert list(refused.value.fields) == ["input_sha256"]
    for content in (hash_of("[1.0]"), "0" * 64):
        assert content in refused.value.fields["input_sha256"]
    with pytest.raises(InvalidInput) as refused:
        await lab.submit("draws", input_sha256="0" * 64)
    assert list(refused.value.fields) == ["input_sha256"]


async def test_a_checksum_of_a_file_elsewhere_is_compared_by_the_worker(
    lab: Any, website: Any
) -> None:
    (website.directory / "grid.json").write_text("[1.0]")
    open_lab = lab.allowing(allow_private_inputs=True)
    uri = f"{website.url}/grid.json"
    right = await open_lab.run("growth", input_dataset=uri, input_sha256=hash_of("[1.0]"))
    assert right.status == "completed", await lab.log(right)
    (website.directory / "grid.json").write_text("[2.0]")
    wrong = await open_lab.run("growth", input_dataset=uri, input_sha256=hash_of("[1.0]"))
    assert wrong.status == "failed"
    assert hash_of("[1.0]") in await lab.last_line(wrong)
    assert hash_of("[2.0]") in await lab.last_line(wrong)
    assert wrong.input_sha256 is None


async def test_an_object_of_a_listed_bucket_is_read(lab: Any, s3_bucket: str) -> None:
    bucket = s3_bucket.rpartition("/")[2]
    obstore.put(open_bucket(f"s3://{bucket}"), "grid.json", b"[1.0]")
    experiment = await lab.allowing(input_buckets=(bucket,)).run(
        "growth", input_dataset=f"s3://{bucket}/grid.json"
    )
    assert experiment.status == "completed", await lab.log(experiment)
    [entry] = experiment.outcome["inputs"]
    assert (entry["uri"], entry["sha256"]) == (f"s3://{bucket}/grid.json", hash_of("[1.0]"))
    assert (await lab.reproduce(experiment)).outcome["reproduction"]["verdict"] == "identical"


async def test_inputs_that_are_too_large_together_are_refused_before_anything_is_queued(
    lab: Any, lab_home: Path
) -> None:
    shared = lab_home / "shared"
    shared.mkdir(exist_ok=True)
    (shared / "large.json").write_text("[" + "1," * 500 + "1]")
    uploaded = await lab.upload("[" + "2," * 500 + "2]", "large.json")
    small = lab.allowing(max_input_bytes=1500)
    await small.submit("growth", input_dataset=uploaded)
    with pytest.raises(InvalidInput, match="PLATFORM_MAX_INPUT_BYTES"):
        await small.submit("growth", {"x": str(shared / "large.json")}, input_dataset=uploaded)
