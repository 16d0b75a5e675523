"""File names promise the media types that the field's tools expect."""

from __future__ import annotations

import pytest

from dissmodel_platform.storage.media import media_type


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flood.gpkg", "application/geopackage+sqlite3"),
        ("output.tif", "image/tiff; application=geotiff"),
        ("OUTPUT.TIFF", "image/tiff; application=geotiff"),
        ("cells.geojson", "application/geo+json"),
        ("grid.zip", "application/zip"),
        ("cube.zarr.zip", "application/zip"),
        ("grid.shp", "application/vnd.shp"),
        ("demand.csv", "text/csv"),
        ("cells.parquet", "application/vnd.apache.parquet"),
        ("climate.nc", "application/x-netcdf"),
        ("map.png", "image/png"),
        ("readme.md", "text/markdown"),
        ("record.json", "application/json"),
        ("log.txt", "text/plain"),
        ("s3://dissmodel-outputs/experiments/0/tiles/a.tif", "image/tiff; application=geotiff"),
    ],
)
def test_a_known_suffix_has_its_type(name: str, expected: str) -> None:
    assert media_type(name) == expected


@pytest.mark.parametrize("name", ["", "grid", ".tif", "data.", "model.pkl", "v1.2/grid", "a.tif/b"])
def test_any_other_name_is_just_bytes(name: str) -> None:
    assert media_type(name) == "application/octet-stream"
