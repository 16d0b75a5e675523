"""Compare two maps by what they hold, with the libraries of the model's own environment."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .inspection import installed_version

RASTERS = (".tif", ".tiff")
VECTORS = (".gpkg", ".geojson", ".fgb")

_CELLS_AT_ONCE = 4_000_000
_FEATURES_AT_ONCE = 20_000
_MOST_SENTENCES = 50


def compare_maps(before: Path, after: Path) -> dict[str, Any]:
    """Say whether two files hold the same map.

    Two rasters are equal with the same cells, data types, nodata values, band names, CRS and
    transform: compression, tiling, overviews and other metadata do not count. Two vector files are
    equal with the same layers, and two layers with the same CRS, type of geometry, fields and
    features, in any order: a table of a database has none. The name of a layer does not count
    where each file has one, nor do the features' own numbers and the time of writing.

    Parameters
    ----------
    before, after : Path
        The original and its reproduction, with the same suffix.

    Returns
    -------
    dict
        ``tool``: name and version of what opened them, or empty; ``reason``: then, why not;
        ``equal``; ``differences``: sentences; for rasters ``cells`` (over all bands),
        ``differing_cells`` and ``largest_difference`` (in the bands' own units, over cells that
        have data in both); for vectors ``features`` and ``differing_features``.
    """
    suffix = before.suffix.lower()
    module, compare = ("rasterio", _compare_rasters) if suffix in RASTERS else (
        "pyogrio", _compare_vectors
    )  # fmt: skip
    if suffix not in RASTERS + VECTORS or importlib.util.find_spec(module) is None:
        return {"tool": "", "reason": f"{module} is not installed there", "equal": False}
    tool = f"{module} {installed_version(module)}"
    try:
        found = compare(importlib.import_module(module), before, after)
    except Exception as error:
        reason = f"{tool} cannot open them ({type(error).__name__}: {error})"
        return {"tool": "", "reason": reason[:500], "equal": False}
    found["differences"] = found["differences"][:_MOST_SENTENCES]
    return {"tool": tool, **found}


def _compare_rasters(rasterio: Any, before: Path, after: Path) -> dict[str, Any]:
    with (
        rasterio.open(before, driver="GTiff") as old,
        rasterio.open(after, driver="GTiff") as new,
    ):
        differences = _unequal(_raster_properties(old), _raster_properties(new))
        found: dict[str, Any] = {"differences": differences}
        if (old.shape, old.count) == (new.shape, new.count):
            found |= _compare_cells(rasterio, old, new)
    found["equal"] = not differences and found.get("differing_cells") == 0
    return found


def _raster_properties(dataset: Any) -> dict[str, str]:
    bands = range(1, dataset.count + 1)
    names = [dataset.descriptions[i - 1] or dataset.tags(i).get("name") for i in bands]
    return {
        "size": f"{dataset.height} × {dataset.width} cells",
        "number of bands": str(dataset.count),
        "data type": ", ".join(dict.fromkeys(dataset.dtypes)),
        "CRS": str(dataset.crs),
        "transform": str(tuple(dataset.transform)[:6]),
        "nodata value": ", ".join(dict.fromkeys(map(str, dataset.nodatavals))),
        "names of the bands": ", ".join(map(str, names)),
    }


def _compare_cells(rasterio: Any, old: Any, new: Any) -> dict[str, Any]:
    numpy = importlib.import_module("numpy")
    windows = importlib.import_module("rasterio.windows")
    differing, largest = 0, 0.0
    rows = max(1, _CELLS_AT_ONCE // old.width)
    for band in range(1, old.count + 1):
        for top in range(0, old.height, rows):
            window = windows.Window(0, top, old.width, min(rows, old.height - top))
            a, b = old.read(band, window=window), new.read(band, window=window)
            # NaN is the same as NaN
            unequal = (a != b) & ~(numpy.isnan(a) & numpy.isnan(b))
            if not unequal.any():
                continue
            differing += int(unequal.sum())
            both = unequal & _has_data(numpy, old, band, a) & _has_data(numpy, new, band, b)
            if both.any():
                largest = max(largest, _largest_difference(numpy, a[both], b[both]))
    return {
        "cells": old.width * old.height * old.count,
        "differing_cells": differing,
        "largest_difference": largest,
    }


def _has_data(numpy: Any, dataset: Any, band: int, values: Any) -> Any:
    nodata = dataset.nodatavals[band - 1]
    has = numpy.isfinite(values)
    return has if nodata is None or math.isnan(nodata) else has & (values != nodata)


def _largest_difference(numpy: Any, a: Any, b: Any) -> float:
    if a.dtype.kind in "iu" and a.dtype == b.dtype:
        # in 64 bits without a sign, the difference of any two whole numbers fits
        high, low = numpy.maximum(a, b), numpy.minimum(a, b)
        return float((high.astype("uint64") - low.astype("uint64")).max())
    wide = "complex128" if "c" in (a.dtype.kind, b.dtype.kind) else "float64"
    return float(numpy.abs(a.astype(wide) - b.astype(wide)).max())


def _compare_vectors(pyogrio: Any, before: Path, after: Path) -> dict[str, Any]:
    old = [str(row[0]) for row in pyogrio.list_layers(before)]
    new = [str(row[0]) for row in pyogrio.list_layers(after)]
    if not old and not new:
        raise ValueError("they have no vector layer")
    differences: list[str] = []
    if len(old) == len(new) == 1:
        pairs = [(old[0], new[0])]
    else:
        pairs = [(name, name) for name in old if name in new]
        differences += [f"the layer {name!r} is missing" for name in old if name not in new]
        differences += [f"the layer {name!r} is new" for name in new if name not in old]
    features = differing = 0
    for was, now in pairs:
        there = _layer_properties(pyogrio, before, was)
        here = _layer_properties(pyogrio, after, now)
        of_layer = "" if len(pairs) == 1 else f" of the layer {was!r}"
        differences += [f"{text}{of_layer}" for text in _unequal(there, here)]
        counted = Counter(_digests(pyogrio, before, was))
        others = Counter(_digests(pyogrio, after, now))
        features += counted.total()
        differing += max((counted - others).total(), (others - counted).total())
    return {
        "differences": differences,
        "features": features,
        "differing_features": differing,
        "equal": not differences and not differing,
    }


def _layer_properties(pyogrio: Any, path: Path, layer: str) -> dict[str, str]:
    info = pyogrio.read_info(path, layer=layer)
    fields = sorted(zip(map(str, info["fields"]), map(str, info["dtypes"]), strict=True))
    return {
        "CRS": str(info["crs"]),
        "type of geometry": str(info["geometry_type"]),
        "fields": ", ".join(f"{name} ({dtype})" for name, dtype in fields),
    }


def _digests(pyogrio: Any, path: Path, layer: str) -> Iterator[bytes]:
    """Yield a digest of each feature: its geometry's bytes, and its values by the field's name."""
    raw = importlib.import_module("pyogrio.raw")
    for start in itertools.count(0, _FEATURES_AT_ONCE):
        meta, _, geometries, columns = raw.read(
            path,
            layer=layer,
            skip_features=start,
            max_features=_FEATURES_AT_ONCE,
            datetime_as_string=True,
        )
        columns_of = dict(zip(map(str, meta["fields"]), columns, strict=True))
        values = [columns_of[name].tolist() for name in sorted(columns_of)]
        shapes = geometries
        if shapes is None:  # a table without a geometry
            shapes = [None] * (len(values[0]) if values else 0)
        for shape, *row in zip(shapes, *values, strict=True):
            digest = hashlib.blake2b(shape or b"", digest_size=16)
            digest.update(repr(row).encode("utf-8", "surrogatepass"))
            yield digest.digest()
        if len(shapes) < _FEATURES_AT_ONCE:
            return


def _unequal(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [
        f"{name}: {after[name]}, was {before[name]}"
        for name in before
        if before[name] != after[name]
    ]
