"""Inside a run every input is a local file; the record keeps the addresses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.errors import InvalidInput

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
    with pytest.raises(InvalidInput) as refused:
        await lab.submit("growth", {"table": "s3://dissmodel-inputs/inputs/none/there.zip"})
    assert list(refused.value.fields) == ["parameters.table"]
    assert await lab.database.fetch_one("SELECT count(*) AS n FROM experiments") == before


async def test_an_input_that_is_gone_from_the_store_fails_with_its_address(lab: Any) -> None:
    grid = await lab.upload("to be removed", "grid.json")
    experiment = await lab.submit("growth", input_dataset=grid)
    await lab.parts.store.delete(experiment.input_sha256)
    await lab.runner().run(experiment.id)
    assert (await lab.get(experiment)).status == "failed"
    assert (await lab.last_line(experiment)).startswith(f"The input {grid} (input_dataset)")
