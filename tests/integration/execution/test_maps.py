"""Maps: the same cells and features however a run is started, described, and compared again."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.store import Environment, clean_environment
from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.registry.spec import parse_spec
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.run import Runner, RunnerParts

pytestmark = pytest.mark.anyio

GRID = Path(__file__).parents[3] / "examples" / "coastal-flood" / "data" / "grid.zip"
SHARE = {"share": 0.25, "end_time": 4}

WRITE_RASTER = """
import sys
import numpy, rasterio
heights = numpy.random.default_rng(7).normal(size=(30, 40)).astype("float32")
with rasterio.open(
    sys.argv[1], "w", driver="GTiff", height=30, width=40, count=1, dtype="float32",
    crs="EPSG:31983", transform=rasterio.Affine(30, 0, 500000, 0, -30, 7400000),
) as dataset:
    dataset.write(heights, 1)
    dataset.update_tags(1, name="height")
"""


async def environment_of(lab: Any, spec: str) -> Environment:
    parsed = parse_spec("models/inline.toml", spec).spec
    environment: Environment = (await lab.parts.preparer.prepare(parsed)).environment
    return environment


@pytest.fixture
async def environment(lab: Any) -> Environment:
    return await environment_of(lab, lab.spec("raster-diffusion"))


def python(environment: Environment, place: Path, *arguments: str) -> None:
    """Run a command line of the environment, as a modeller does on their own machine."""
    subprocess.run(
        [str(environment.python), *arguments],
        cwd=place,
        env=clean_environment(environment, str(place)),
        check=True,
        capture_output=True,
    )


@pytest.fixture
async def heights(lab: Any, environment: Environment, tmp_path: Path) -> str:
    python(environment, tmp_path, "-c", WRITE_RASTER, "heights.tif")
    uri: str = await lab.upload_file(tmp_path / "heights.tif")
    return uri


async def run_fresh(lab: Any, *arguments: Any, **options: Any) -> Experiment:
    launcher = Launcher(0, inspect_walls())
    runner = Runner(RunnerParts(**{**vars(lab.parts), "launcher": launcher}))
    experiment: Experiment = await lab.run(*arguments, runner=runner, **options)
    await launcher.close()
    return experiment


async def save_result(lab: Any, experiment: Experiment, path: Path) -> Path:
    assert experiment.status == "completed", await lab.log(experiment)
    path.write_bytes(await lab.bytes(experiment.outcome["artifacts"]["output"]))
    return path


async def compare(lab: Any, environment: Environment, *files: Path) -> Any:
    return await asyncio.to_thread(lab.parts.preparer.environments.compare, environment, *files)


async def test_a_raster_is_the_same_cell_by_cell_forked_fresh_and_by_the_command_line(
    lab: Any, environment: Environment, heights: str, tmp_path: Path
) -> None:
    forked = await lab.run("raster-diffusion", SHARE, input_dataset=heights)
    fresh = await run_fresh(lab, "raster-diffusion", SHARE, input_dataset=heights)
    assert (forked.outcome["start_mode"], fresh.outcome["start_mode"]) == ("fork", "fresh")
    python(
        environment, tmp_path, "-m", "behaviours.maps", "run", "--input", "heights.tif",
        "--output", "own.tif", "--preserve-output-name",
        "--param", "share=0.25", "--param", "end_time=4",
    )  # fmt: skip
    own = tmp_path / "own.tif"
    result = await save_result(lab, forked, tmp_path / "forked.tif")
    found = await compare(lab, environment, own, result)
    assert found["tool"].startswith("rasterio ")
    assert (found["differences"], found["cells"], found["differing_cells"]) == ([], 1200, 0)
    assert found["equal"]
    for experiment in (forked, fresh):
        result = await save_result(lab, experiment, tmp_path / "result.tif")
        assert result.read_bytes() == own.read_bytes()


async def test_a_vector_map_is_the_same_attribute_by_attribute_forked_fresh_and_by_the_command_line(
    lab: Any, repositories: Any, tmp_path: Path
) -> None:
    package = repositories.requirement("coastal-flood")
    grid = await lab.upload_file(GRID)
    arguments = ("flood_vector", {"end_time": 6})
    forked = await lab.run(*arguments, input_dataset=grid, package=package)
    fresh = await run_fresh(lab, *arguments, input_dataset=grid, package=package)
    assert (forked.outcome["start_mode"], fresh.outcome["start_mode"]) == ("fork", "fresh")
    environment = await environment_of(lab, lab.spec("flood_vector", package=package))
    python(
        environment, tmp_path, "-m", "coastal_flood.flood_executor", "run", "--input", str(GRID),
        "--output", "own.gpkg", "--preserve-output-name", "--param", "end_time=6",
    )  # fmt: skip
    own = tmp_path / "own.gpkg"
    result = await save_result(lab, forked, tmp_path / "forked.gpkg")
    found = await compare(lab, environment, own, result)
    assert (found["differences"], found["differing_features"]) == ([], 0)
    assert found["features"] > 1000
    for experiment in (forked, fresh):
        result = await save_result(lab, experiment, tmp_path / "result.gpkg")
        assert result.read_bytes() == own.read_bytes()


async def test_a_raster_has_its_crs_extent_size_and_bands_in_the_record(
    lab: Any, heights: str
) -> None:
    experiment = await lab.run("raster-diffusion", SHARE, input_dataset=heights)
    [output] = experiment.flat_record([])["outputs"]
    assert output["spatial"] == {
        "format": "GeoTIFF",
        "crs": "EPSG:31983",
        "extent": [500_000.0, 7_399_100.0, 501_200.0, 7_400_000.0],
        "width": 40,
        "height": 30,
        "count": 1,
        "bands": [{"name": "height", "dtype": "float32", "nodata": None}],
    }


async def test_a_geopackage_has_its_crs_extent_and_layers_in_the_record(lab: Any) -> None:
    experiment = await lab.run("vector-cells")
    notes, output = experiment.flat_record([])["outputs"]
    assert "spatial" not in notes
    assert output["spatial"] == {
        "format": "GeoPackage",
        "crs": "EPSG:31983",
        "extent": [0.0, 0.0, 4.0, 3.0],
        "layers": [
            {
                "name": "cells",
                "kind": "features",
                "crs": "EPSG:31983",
                "extent": [0.0, 0.0, 4.0, 3.0],
                "geometry_type": "POLYGON",
                "features": 12,
            }
        ],
    }


async def reproduced(lab: Any, original: Experiment) -> dict[str, Any]:
    assert original.status == "completed", await lab.log(original)
    again = await lab.reproduce(original)
    found: dict[str, Any] = again.flat_record([])["reproduction"]
    return found


async def test_a_raster_with_other_bytes_and_the_same_cells_has_equal_content(
    lab: Any, heights: str
) -> None:
    parameters = {**SHARE, "vary": "bytes"}
    found = await reproduced(
        lab, await lab.run("raster-diffusion", parameters, input_dataset=heights)
    )
    assert found["verdict"] == "equal content"
    [artifact] = found["artifacts"]
    assert (artifact["identical"], artifact["verdict"]) == (False, "equal content")
    assert artifact["tool"].startswith("rasterio ")
    assert (artifact["cells"], artifact["differing_cells"]) == (1200, 0)
    assert artifact["first_differing_byte"] > 0


async def test_a_raster_with_other_cells_says_how_many_and_by_how_much(
    lab: Any, heights: str
) -> None:
    parameters = {**SHARE, "vary": "cells"}
    found = await reproduced(
        lab, await lab.run("raster-diffusion", parameters, input_dataset=heights)
    )
    assert found["verdict"] == "different"
    [artifact] = found["artifacts"]
    assert artifact["differing_cells"] == 3
    assert artifact["largest_difference"] > 0
    assert artifact["difference"].startswith("3 of 1,200 cells differ, by at most ")


async def test_layers_with_the_same_features_have_equal_content_whatever_name_and_order(
    lab: Any,
) -> None:
    found = await reproduced(lab, await lab.run("vector-cells", {"vary": "bytes"}))
    assert found["verdict"] == "equal content"
    assert [entry["verdict"] for entry in found["artifacts"]] == ["identical", "equal content"]


async def test_features_that_differ_are_counted(lab: Any) -> None:
    found = await reproduced(lab, await lab.run("vector-cells", {"vary": "features"}))
    assert found["verdict"] == "different"
    assert found["artifacts"][1]["differing_features"] == 2
    assert found["artifacts"][1]["difference"] == "2 of 12 features differ"


COMPARE_PAIRS = """
import geopandas, numpy, rasterio
from shapely.geometry import Point

def raster(name, cells, **how):
    cells = numpy.asarray(cells)
    how = {"crs": "EPSG:31983", "transform": rasterio.Affine(1, 0, 0, 0, -1, 0), **how}
    with rasterio.open(name, "w", driver="GTiff", height=cells.shape[0], width=cells.shape[1],
                       count=1, dtype=cells.dtype, **how) as dataset:
        dataset.write(cells, 1)

nan = float("nan")
floats = numpy.array([[1.0, nan], [-9999.0, 2.0]])
raster("floats.before.tif", floats, nodata=-9999)
raster("floats.after.tif", [[1.5, nan], [7.0, 2.0]], nodata=-9999)
raster("nan.before.tif", floats)
raster("nan.after.tif", floats, compress="lzw", tiled=True, blockxsize=16, blockysize=16)
raster("bytes.before.tif", numpy.array([[0, 255]], "uint8"))
raster("bytes.after.tif", numpy.array([[255, 254]], "uint8"))
raster("long.before.tif", numpy.array([[-2**63, 5]], "int64"))
raster("long.after.tif", numpy.array([[2**63 - 1, 5]], "int64"))
raster("size.before.tif", floats)
raster("size.after.tif", floats[:1])
raster("place.before.tif", floats)
raster("place.after.tif", floats, transform=rasterio.Affine(1, 0, 5, 0, -1, 0), crs="EPSG:31984")
raster("nodata.before.tif", floats, nodata=-9999)
raster("nodata.after.tif", floats)

def layer(name, values, layer="a", crs="EPSG:31983", column="v", mode="w"):
    points = geopandas.GeoDataFrame(
        {column: values}, geometry=[Point(n, n) for n in range(len(values))], crs=crs)
    points.to_file(name, driver="GPKG", layer=layer, mode=mode)

layer("more.before.gpkg", [1.0, nan, 3.0])
layer("more.after.gpkg", [1.0, nan, 3.0, 4.0, 5.0], layer="b")
layer("field.before.gpkg", [1])
layer("field.after.gpkg", [1], column="w")
layer("crs.before.gpkg", [1])
layer("crs.after.gpkg", [1], crs="EPSG:31984")
for name, second in (("layers.before.gpkg", "b"), ("layers.after.gpkg", "c")):
    layer(name, [1, 2])
    layer(name, [3], layer=second, mode="a")
open("broken.before.tif", "w").write("no map"), open("broken.after.tif", "w").write("none")
open("broken.before.gpkg", "w").write("no map"), open("broken.after.gpkg", "w").write("none")

import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from harness.comparison import compare_maps
found = {}
for before in sorted(pathlib.Path().glob("*.before.*")):
    after = before.with_name(before.name.replace("before", "after"))
    found[before.name.replace(".before", "")] = compare_maps(before, after)
pathlib.Path("found.json").write_text(json.dumps(found))
"""


async def test_every_way_in_which_two_maps_can_differ_is_told(
    environment: Environment, tmp_path: Path
) -> None:
    python(environment, tmp_path, "-c", COMPARE_PAIRS, str(HARNESS.parent.parent))
    reports = json.loads((tmp_path / "found.json").read_text())

    def found(pair: str, suffix: str) -> dict[str, Any]:
        report: dict[str, Any] = reports[f"{pair}.{suffix}"]
        return report

    floats = found("floats", "tif")
    # the second cell has data on one side only, so that it has no difference
    assert (floats["differing_cells"], floats["largest_difference"]) == (2, 0.5)
    assert not floats["equal"]
    assert (found("nan", "tif"))["equal"]
    whole = found("bytes", "tif")
    assert (whole["differing_cells"], whole["largest_difference"]) == (2, 255)
    assert (found("long", "tif"))["largest_difference"] == 2.0**64
    size = found("size", "tif")
    assert "size: 1 × 2 cells, was 2 × 2 cells" in size["differences"]
    assert not size["equal"]
    place = found("place", "tif")
    assert [text.split(": ")[0] for text in place["differences"]] == ["CRS", "transform"]
    assert (place["differing_cells"], place["equal"]) == (0, False)
    assert (found("nodata", "tif"))["differences"] == ["nodata value: None, was -9999.0"]
    more = found("more", "gpkg")
    assert (more["differences"], more["features"], more["differing_features"]) == ([], 3, 2)
    assert not more["equal"]
    field = found("field", "gpkg")
    assert field["differences"] == ["fields: w (int64), was v (int64)"]
    assert (found("crs", "gpkg"))["differences"] == ["CRS: EPSG:31984, was EPSG:31983"]
    layers = found("layers", "gpkg")
    assert layers["differences"] == ["the layer 'b' is missing", "the layer 'c' is new"]
    assert (layers["features"], layers["differing_features"]) == (2, 0)
    for suffix, tool in (("tif", "rasterio"), ("gpkg", "pyogrio")):
        broken = found("broken", suffix)
        assert (broken["tool"], broken["equal"]) == ("", False)
        assert broken["reason"].startswith(f"{tool} ")
