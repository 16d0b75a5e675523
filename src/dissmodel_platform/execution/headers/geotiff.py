"""The header of a GeoTIFF: a few hundred bytes of tags, whatever the size of the image.

TIFF 6.0 and BigTIFF; the georeference by OGC GeoTIFF 1.1 (OGC 19-008r4); nodata and the names of
bands in the tags that GDAL writes (https://gdal.org/en/stable/drivers/raster/gtiff.html). Every
loop and every read has a bound, so that a forged file costs what a true one costs.
"""

from __future__ import annotations

import html
import math
import os
import re
import struct
from typing import Any

MOST_BANDS = 256
"""Bands that are listed; ``count`` has them all."""

_MOST_TAGS = 4_096
_MOST_TAG_BYTES = 256 * 1024
_LONGEST_TEXT = 200
# TIFF 6.0, section 2, and BigTIFF: the types of numbers as `struct` calls them
_TYPES = {
    1: "B",
    2: "s",
    3: "H",
    4: "I",
    6: "b",
    8: "h",
    9: "i",
    11: "f",
    12: "d",
    16: "Q",
    17: "q",
}
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _FORMAT = 256, 257, 258, 277, 339
_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS, _KEY_TEXTS = 33550, 33922, 34264, 34735, 34737
_GDAL_METADATA, _GDAL_NODATA = 42112, 42113
_RASTER_TYPE, _CITATION, _GEODETIC, _GEODETIC_CITATION = 1025, 1026, 2048, 2049
_PROJECTED, _PROJECTED_CITATION = 3072, 3073
_PIXEL_IS_POINT, _USER_DEFINED = 2, 32767
_KINDS = {1: "uint", 2: "int", 3: "float", 5: "complex_int", 6: "complex"}
_BAND_NAME = re.compile(
    # a description, or what dissmodel calls a band
    r'<Item name="(?:DESCRIPTION|name)" sample="(\d{1,5})"(?: role="description")?>'
    r"([^<]{0,1000})</Item>"
)


class Unreadable(ValueError):
    """It is no such file; the message says why."""


def describe_geotiff(descriptor: int) -> dict[str, Any]:
    """Read the header of the first image of an open file.

    Returns
    -------
    dict
        ``format``; ``crs``: ``EPSG:…``, or how the file calls one that has no number, or ``None``;
        ``extent``: [xmin, ymin, xmax, ymax] in the CRS's unit, outer edges of the outer cells, or
        ``None``; ``width`` and ``height`` in cells; ``count`` of bands; ``bands``: ``name`` (or
        ``None``), ``dtype`` and ``nodata`` (a number, a text where JSON has no such number, or
        ``None``) of each.

    Raises
    ------
    Unreadable
        It is no TIFF, or a broken one.
    """
    tags = _Tags(descriptor)
    width, height = tags.whole(_WIDTH), tags.whole(_HEIGHT)
    count = tags.whole(_SAMPLES, 1)
    if not (width and height and count):
        raise Unreadable("it has no cells")
    keys = _geo_keys(tags)
    dtypes = _dtypes(tags, min(count, MOST_BANDS))
    names = dict(_BAND_NAME.findall(tags.text(_GDAL_METADATA)))
    nodata = tags.text(_GDAL_NODATA).strip()
    return {
        "format": "GeoTIFF",
        "crs": _crs(keys),
        "extent": _extent(tags, keys, width, height),
        "width": width,
        "height": height,
        "count": count,
        "bands": [
            {
                "name": html.unescape(names.get(str(index), ""))[:_LONGEST_TEXT] or None,
                "dtype": dtype,
                "nodata": _number(nodata, dtype),
            }
            for index, dtype in enumerate(dtypes)
        ],
    }


class _Tags:
    """The tags of the first image of a file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        head = self._read(0, 16, least=8)
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        if not self._order:
            raise Unreadable("it does not begin as a TIFF does")
        version = self._unpack("H", head[2:4])
        self._is_big = version == 43
        if version not in (42, 43) or (self._is_big and len(head) < 16):
            raise Unreadable("it does not begin as a TIFF does")
        self._word, size = ("Q", 20) if self._is_big else ("I", 12)
        place = self._unpack(self._word, head[8:16] if self._is_big else head[4:8])
        counted, width = ("Q", 8) if self._is_big else ("H", 2)
        number = self._unpack(counted, self._read(place, width))
        if number > _MOST_TAGS:
            raise Unreadable(f"it has more than {_MOST_TAGS} tags")
        entries = self._read(place + width, number * size)
        self._entries: dict[int, bytes] = {}
        for start in range(0, len(entries), size):
            tag = self._unpack("H", entries[start : start + 2])
            self._entries.setdefault(tag, entries[start + 2 : start + size])

    def numbers(self, tag: int) -> tuple[Any, ...]:
        """Return the numbers of a tag; none where there is no such tag."""
        kind, values = self._values(tag)
        return () if kind == "s" else values

    def whole(self, tag: int, default: int = 0) -> int:
        """Return the first number of a tag, a whole one."""
        values = self.numbers(tag)
        return int(values[0]) if values else default

    def text(self, tag: int) -> str:
        """Return the text of a tag, without the NUL that ends it."""
        kind, values = self._values(tag)
        if kind != "s":
            return ""
        text: str = values[0].decode("utf-8", "replace")
        return text.partition("\0")[0]

    def _values(self, tag: int) -> tuple[str, tuple[Any, ...]]:
        entry = self._entries.get(tag)
        if entry is None:
            return "", ()
        kind = _TYPES.get(self._unpack("H", entry[:2]), "")
        wide = struct.calcsize(self._word)
        count = self._unpack(self._word, entry[2 : 2 + wide])
        if not kind:
            return "", ()
        length = count * struct.calcsize(kind)
        if length > _MOST_TAG_BYTES:
            raise Unreadable(f"its tag {tag} is too long")
        value = entry[2 + wide :]
        if length > wide:
            value = self._read(self._unpack(self._word, value), length)
        return kind, struct.unpack(f"{self._order}{count}{kind}", value[:length])

    def _read(self, place: int, length: int, least: int | None = None) -> bytes:
        try:
            content = os.pread(self._descriptor, length, place)
        except (OSError, OverflowError) as error:
            raise Unreadable("one of its addresses is none") from error
        if len(content) < (length if least is None else least):
            raise Unreadable("it ends too soon")
        return content

    def _unpack(self, kind: str, content: bytes) -> int:
        value: int = struct.unpack(self._order + kind, content)[0]
        return value


def _geo_keys(tags: _Tags) -> dict[int, int | str]:
    """Read the key directory (OGC 19-008r4, 7.1.2): numbers, and texts out of their own tag."""
    directory = tags.numbers(_KEYS)
    texts = tags.text(_KEY_TEXTS)
    keys: dict[int, int | str] = {}
    for start in range(4, len(directory) - 3, 4):
        key, place, count, value = map(int, directory[start : start + 4])
        if place == 0:
            keys[key] = value
        elif place == _KEY_TEXTS:
            keys[key] = texts[value : value + count].rstrip("|")
    return keys


def _crs(keys: dict[int, int | str]) -> str | None:
    # a projected one has both numbers: its own, and that of the geographic one below it
    code = keys.get(_PROJECTED, keys.get(_GEODETIC))
    if isinstance(code, int) and 0 < code < _USER_DEFINED:
        return f"EPSG:{code}"
    for citation in (_PROJECTED_CITATION, _CITATION, _GEODETIC_CITATION):
        text = keys.get(citation)
        if isinstance(text, str) and text:
            return text[:_LONGEST_TEXT]
    return None


def _extent(tags: _Tags, keys: dict[int, int | str], width: int, height: int) -> list[float] | None:
    matrix = tags.numbers(_TRANSFORMATION)
    scale, tie = tags.numbers(_SCALE), tags.numbers(_TIEPOINT)
    if len(matrix) >= 8:
        a, b, _, c, d, e, _, f = map(float, matrix[:8])
    elif len(scale) >= 2 and len(tie) >= 6:
        a, b, d, e = float(scale[0]), 0.0, 0.0, -float(scale[1])
        c, f = tie[3] - tie[0] * a, tie[4] - tie[1] * e
    else:
        return None
    shift = 0.5 if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT else 0.0
    corners = [
        (a * column + b * row + c, d * column + e * row + f)
        for column in (-shift, width - shift)
        for row in (-shift, height - shift)
    ]
    xs, ys = zip(*corners, strict=True)
    extent = [min(xs), min(ys), max(xs), max(ys)]
    return extent if all(map(math.isfinite, extent)) else None


def _dtypes(tags: _Tags, count: int) -> list[str]:
    bits, kinds = tags.numbers(_BITS) or (1,), tags.numbers(_FORMAT) or (1,)
    return [
        f"{_KINDS.get(_at(kinds, index), 'unknown')}{_at(bits, index)}" for index in range(count)
    ]


def _at(values: tuple[Any, ...], index: int) -> int:
    """Return a band's value; some writers give one for all bands."""
    return int(values[index] if index < len(values) else values[0])


def _number(text: str, dtype: str) -> int | float | str | None:
    try:
        number = float(text)
    except ValueError:
        return text[:_LONGEST_TEXT] or None
    if not math.isfinite(number):
        return str(number)
    return int(number) if "int" in dtype and number.is_integer() else number
