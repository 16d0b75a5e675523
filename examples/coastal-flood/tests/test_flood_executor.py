"""The executor: its contract with dissmodel, what it reads and writes, what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from coastal_flood import FloodVectorExecutor
from dissmodel.executor import (
    DataSource,
    ExecutorRegistry,
    ExecutorTestHarness,
    ExperimentRecord,
    execute_lifecycle,
)

FIXED_DATE = "2000-01-01T00:00:00.000Z"


def record_of(source: Path | str, output: Path | None = None, **fields: object) -> ExperimentRecord:
    return ExperimentRecord(
        source=DataSource(uri=str(source)), output_path=output and str(output), **fields
    )


def run(record: ExperimentRecord) -> ExperimentRecord:
    return execute_lifecycle(FloodVectorExecutor(), record)[0]


def test_contract_of_dissmodel(data_zip, tmp_path):
    harness = ExecutorTestHarness(FloodVectorExecutor)
    assert harness.run_contract_tests()
    assert harness.run_with_sample_data(record_of(data_zip, tmp_path / "flood.gpkg"))


def test_registered_by_name():
    assert ExecutorRegistry.get("flood_vector") is FloodVectorExecutor
    assert FloodVectorExecutor.output_suffix == ".gpkg"


def test_result_and_record_of_a_default_run(data_zip, salish_sea, tmp_path):
    output = tmp_path / "results" / "flood.gpkg"
    record = run(record_of(data_zip, output))

    assert record.status == "completed"
    assert record.source.checksum == hashlib.sha256(data_zip.read_bytes()).hexdigest()
    assert record.output_path == str(output)
    assert record.output_sha256 == hashlib.sha256(output.read_bytes()).hexdigest()
    assert record.logs == ["Read 10920 cells, EPSG:4326", "Sea 4850 cells, flooded 72, dry 5998"]

    result = gpd.read_file(output, layer="flood")
    assert result.crs.to_epsg() == 4326
    assert list(result.columns) == ["row", "col", "elevation", "year_flooded", "geometry"]
    for column in ("row", "col", "elevation"):
        np.testing.assert_array_equal(result[column], salish_sea[column])
    np.testing.assert_array_equal(result.bounds, salish_sea.bounds)
    assert (result["year_flooded"] > 0).sum() == 72
    assert result["year_flooded"].isna().sum() == 5998


def test_without_an_output_path_the_result_goes_where_dissmodel_puts_outputs(
    data_zip, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    uri = f"./outputs/{'a' * 8}/output.gpkg"
    monkeypatch.setattr(
        "coastal_flood.flood_executor.default_output_uri",
        lambda experiment_id, ext: f"./outputs/{experiment_id}/output.{ext}",
    )
    record = run(record_of(data_zip, experiment_id="a" * 8))
    assert record.output_path == uri
    assert len(gpd.read_file(tmp_path / uri)) == 10920


def test_without_an_output_path_the_result_goes_to_the_client_that_is_set(data_zip, monkeypatch):
    class Bucket:
        def put_object(self, *, bucket_name, object_name, data, length, content_type):
            self.stored = (bucket_name, object_name, len(data.read()) == length)

    bucket = Bucket()
    monkeypatch.setattr("dissmodel.io._storage._default_client", bucket)
    record = run(record_of(data_zip, experiment_id="b" * 8))
    assert bucket.stored == ("dissmodel-outputs", "experiments/bbbbbbbb/output.gpkg", True)
    assert record.output_path == "s3://dissmodel-outputs/experiments/bbbbbbbb/output.gpkg"


def test_same_bytes_for_any_order_of_cells_any_experiment_and_any_path(
    data_zip, salish_sea, zipped, tmp_path, monkeypatch
):
    monkeypatch.setenv("OGR_CURRENT_DATE", FIXED_DATE)
    one = run(record_of(data_zip, tmp_path / "one.gpkg"))
    other = run(record_of(data_zip, tmp_path / "elsewhere" / "other.gpkg"))
    shuffled = zipped(salish_sea.sample(frac=1, random_state=3))
    third = run(record_of(shuffled, tmp_path / "third.gpkg"))
    assert one.experiment_id != other.experiment_id
    assert one.source.checksum != third.source.checksum
    assert one.output_sha256 == other.output_sha256 == third.output_sha256


def test_columns_of_other_names_are_read_through_the_column_map(make_grid, zipped, tmp_path):
    grid = make_grid([[-1, 1, 9]]).rename(columns={"elevation": "alt", "row": "lin"})
    grid["elevation"] = 1000.0  # a column of the canonical name, which is not meant
    column_map = {"elevation": "alt", "row": "lin", "col": "col"}
    record = run(record_of(zipped(grid), tmp_path / "flood.gpkg", column_map=column_map))
    result = gpd.read_file(record.output_path)
    assert result["elevation"].tolist() == [-1, 1, 9]
    assert result["year_flooded"].fillna(-1).tolist() == [0, 2, -1]
    assert result.crs.to_epsg() == 31983


def test_run_leaves_its_input_as_it_is(data_zip):
    executor, record = FloodVectorExecutor(), record_of(data_zip)
    grid = executor.load(record)
    before = grid.copy()
    executor.run(grid, record)
    assert grid.equals(before)


def test_foreign_parameters_are_left_alone(data_zip, tmp_path):
    parameters = {"taxa_elevacao": 1, "end_time": 2.0, "land_use_types": ["forest"]}
    record = run(record_of(data_zip, tmp_path / "flood.gpkg", parameters=parameters))
    assert gpd.read_file(record.output_path)["year_flooded"].max() == 2


def test_record_survives_the_journey_through_json(data_zip, tmp_path):
    record = run(record_of(data_zip, tmp_path / "flood.gpkg"))
    assert ExperimentRecord.model_validate(json.loads(record.model_dump_json())) == record


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("taxa_elevacao", -0.1),
        ("taxa_elevacao", float("nan")),
        ("taxa_elevacao", float("inf")),
        ("taxa_elevacao", 10**400),
        ("taxa_elevacao", True),
        ("taxa_elevacao", "0.5"),
        ("taxa_elevacao", None),
        ("end_time", -1),
        ("end_time", 2.5),
        ("end_time", float("nan")),
        ("end_time", float("inf")),
        ("end_time", 2**31),
        ("end_time", True),
        ("end_time", "10"),
        ("end_time", [10]),
    ],
)
def test_bad_parameters_are_named_before_anything_is_read(name, value):
    record = record_of("no-such-file.zip", parameters={name: value})
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be a .*number"):
        run(record)


@pytest.mark.parametrize(
    ("column_map", "sentence"),
    [
        ({"altitude": "alt"}, "column_map names 'altitude', which this model does not read"),
        ({"elevation": ""}, "must give a column's name"),
        ({"elevation": 3}, "must give a column's name"),
        ({"elevation": "row"}, "one column for two attributes"),
    ],
)
def test_bad_column_maps_are_named_before_anything_is_read(column_map, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(record_of("no-such-file.zip", column_map=column_map))


def test_no_input():
    with pytest.raises(ValueError, match=r"There is no input; give a vector grid"):
        run(record_of(""))


def test_a_file_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match=r"no-such-file\.zip"):
        run(record_of("no-such-file.zip"))


def test_a_file_that_is_no_vector_data_is_named(tmp_path):
    (tmp_path / "notes.zip").write_text("not a zip file")
    with pytest.raises(ValueError, match=r"^notes\.zip cannot be read as vector data; give a"):
        run(record_of(tmp_path / "notes.zip"))
