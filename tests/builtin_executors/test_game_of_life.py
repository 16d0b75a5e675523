"""Game of Life against a convolution, known patterns, and what it reads and writes."""

from __future__ import annotations

import hashlib
import json
import zipfile

import numpy as np
import pytest
import rasterio
from dissmodel.core import Environment
from dissmodel.executor import (
    DataSource,
    ExecutorRegistry,
    ExecutorTestHarness,
    ExperimentRecord,
    execute_lifecycle,
)
from dissmodel.geo.raster.backend import RasterBackend
from dissmodel_builtin import GameOfLifeExecutor, life
from rasterio.transform import from_origin
from scipy import ndimage

NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
PLACE = from_origin(500_000, 9_700_000, 30, 30)


def live(state: np.ndarray, generations: int) -> np.ndarray:
    start = RasterBackend(shape=state.shape)
    start.set("state", state.astype(np.uint8))
    return life.simulate(start, generations).get("state")


def live_by_convolution(state: np.ndarray, generations: int) -> np.ndarray:
    for _ in range(generations):
        count = ndimage.convolve(state.astype(int), NEIGHBOURS, mode="constant", cval=0)
        state = np.where(count == 3, 1, np.where(count == 2, state, 0))
    return state


def picture(text: str) -> np.ndarray:
    return np.array([[int(c == "#") for c in line] for line in text.split()])


def write_tiff(path, *bands: np.ndarray, **profile: object) -> None:
    height, width = bands[0].shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=len(bands),
        dtype=bands[0].dtype,
        crs="EPSG:31983",
        transform=PLACE,
        **profile,
    ) as target:
        for number, band in enumerate(bands, start=1):
            target.write(band, number)


def run(uri: str = "", output: object = None, **parameters: object) -> ExperimentRecord:
    record = ExperimentRecord(
        source=DataSource(uri=str(uri)),
        output_path=output and str(output),
        parameters=parameters,
    )
    return execute_lifecycle(GameOfLifeExecutor(), record)[0]


def read(path: str) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read(1)


@pytest.mark.parametrize("seed", range(8))
def test_equals_convolution(seed):
    random = np.random.default_rng(seed)
    state = random.integers(0, 2, size=random.integers(1, 50, size=2))
    for generations in (0, 1, 2, 30):
        np.testing.assert_array_equal(
            live(state, generations), live_by_convolution(state, generations)
        )


def test_blinker_returns_after_two_generations():
    upright = picture("..... ..#.. ..#.. ..#.. .....")
    assert live(upright, 1).tolist() == upright.T.tolist()
    assert live(upright, 2).tolist() == upright.tolist()


def test_glider_moves_one_cell_down_and_right_in_four_generations():
    glider = picture(".#...... ..#..... ###..... ........ ........ ........ ........ ........")
    assert live(glider, 4).tolist() == np.roll(glider, (1, 1), axis=(0, 1)).tolist()
    assert live(glider, 16).tolist() == np.roll(glider, (4, 4), axis=(0, 1)).tolist()


def test_beyond_the_raster_all_is_dead():
    assert live(picture("### ... ###"), 1).tolist() == picture(".#. ... .#.").tolist()


def test_the_start_is_left_as_it_is():
    start = life.random_start((10, 10), 0.5, 1)
    before = start.get("state").copy()
    life.simulate(start, 3)
    np.testing.assert_array_equal(start.get("state"), before)


def test_the_clock_counts_generations():
    live(np.zeros((3, 3)), 7)
    clock = Environment._current
    assert (clock.start_time, clock.now(), clock.end_time) == (0, 7, 7)


def test_contract_of_dissmodel(tmp_path):
    harness = ExecutorTestHarness(GameOfLifeExecutor)
    assert harness.run_contract_tests()
    assert harness.run_with_sample_data(ExperimentRecord(output_path=str(tmp_path / "life.tif")))
    assert ExecutorRegistry.get("game_of_life") is GameOfLifeExecutor


def test_first_band_of_a_geotiff_is_the_start_and_keeps_its_place(tmp_path):
    state = np.random.default_rng(5).integers(0, 3, size=(20, 30)).astype(np.uint8)
    write_tiff(tmp_path / "start.tif", state, np.ones_like(state))

    record = run(tmp_path / "start.tif", tmp_path / "new" / "end.tif", end_time=4)

    output = tmp_path / "new" / "end.tif"
    assert record.status == "completed"
    assert record.source.checksum == sha256(tmp_path / "start.tif")
    assert record.output_path == str(output)
    assert record.output_sha256 == sha256(output)
    np.testing.assert_array_equal(read(output), live_by_convolution(state != 0, 4))
    with rasterio.open(output) as result:
        assert (result.count, result.dtypes[0], result.tags(1)["name"]) == (1, "uint8", "state")
        assert (result.crs.to_epsg(), result.transform) == (31983, PLACE)


def test_without_numbers_a_cell_is_dead(tmp_path):
    block = np.array([[np.nan, 0, 0], [0, 0.5, -1], [0, 7, 1]], dtype=np.float32)
    write_tiff(tmp_path / "start.tif", block)
    record = run(tmp_path / "start.tif", tmp_path / "end.tif", end_time=1)
    assert read(record.output_path).tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_zipped_geotiff(tmp_path):
    block = picture("##. ##. ...").astype(np.uint8)
    write_tiff(tmp_path / "start.tif", block)
    with zipfile.ZipFile(tmp_path / "start.zip", "w") as archive:
        archive.write(tmp_path / "start.tif", "start.tif")
    record = run(tmp_path / "start.zip", tmp_path / "end.tif", end_time=9)
    assert read(record.output_path).tolist() == block.tolist()


def test_random_start_follows_from_its_parameters(tmp_path):
    parameters = {"rows": 30, "columns": 40, "density": 0.4, "seed": 11, "end_time": 0}
    one = run("", tmp_path / "one.tif", **parameters)
    again = run("", tmp_path / "again.tif", **parameters)
    other = run("", tmp_path / "other.tif", **{**parameters, "seed": 12})
    assert one.source.checksum == ""
    assert read(one.output_path).shape == (30, 40)
    assert 0.3 < read(one.output_path).mean() < 0.5
    assert one.output_sha256 == again.output_sha256 != other.output_sha256


def test_without_an_output_path_the_result_goes_where_dissmodel_puts_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "dissmodel_builtin.game_of_life.default_output_uri",
        lambda experiment_id, ext: f"./outputs/{experiment_id}/output.{ext}",
    )
    record = run(end_time=1)
    assert record.output_path == f"./outputs/{record.experiment_id}/output.tif"
    assert read(record.output_path).shape == (64, 64)


def test_record_survives_the_journey_through_json(tmp_path):
    record = run("", tmp_path / "end.tif", end_time=1)
    assert ExperimentRecord.model_validate(json.loads(record.model_dump_json())) == record


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("end_time", -1, "a whole number, 0 or more"),
        ("end_time", 1.5, "a whole number, 0 or more"),
        ("end_time", True, "a whole number, 0 or more"),
        ("end_time", float("nan"), "a whole number, 0 or more"),
        ("end_time", float("inf"), "a whole number, 0 or more"),
        ("rows", 0, "a whole number, 1 or more"),
        ("columns", "64", "a whole number, 1 or more"),
        ("density", 1.1, "a number from 0 to 1"),
        ("density", float("nan"), "a number from 0 to 1"),
        ("density", None, "a number from 0 to 1"),
        ("seed", -3, "a whole number, 0 or more"),
    ],
)
def test_bad_parameters_are_named(name, value, wanted):
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be {wanted}"):
        run("no-such-file.tif", **{name: value})


def test_a_file_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match=r"no-such-file\.tif"):
        run("no-such-file.tif")


@pytest.mark.parametrize("name", ["notes.tif", "notes.zip"])
def test_a_file_that_is_no_raster_is_named(tmp_path, name):
    (tmp_path / name).write_text("words")
    with pytest.raises(ValueError, match=f"^{name} cannot be read as a raster; give a GeoTIFF"):
        run(tmp_path / name)


def test_a_zip_file_without_a_raster_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(ValueError, match=r"^empty\.zip cannot be read as a raster"):
        run(tmp_path / "empty.zip")


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
