"""GeoTIFF headers made by hand, so that no test needs GDAL for them."""

from __future__ import annotations

import struct
from typing import Any

Tag = tuple[int, str, tuple[Any, ...]]
_CODES = {"H": 3, "I": 4, "d": 12, "s": 2, "Q": 16}


def tiff(*tags: Tag, order: str = "<", big: bool = False) -> bytes:
    """Return the header of a TIFF; its cells are not there."""
    word, wide, size = ("Q", 8, 20) if big else ("I", 4, 12)
    mark = b"II" if order == "<" else b"MM"
    start = 16 if big else 8
    head = mark + struct.pack(f"{order}HI", 42, 8)
    if big:
        head = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 16)
    data_at = start + (8 if big else 2) + size * len(tags) + wide
    entries, data = b"", b""
    for tag, kind, values in sorted(tags):
        if kind == "s":
            content, count = values[0], len(values[0])
        else:
            content, count = struct.pack(f"{order}{len(values)}{kind}", *values), len(values)
        if len(content) > wide:
            place, data = data_at + len(data), data + content
            content = struct.pack(order + word, place)
        entry = struct.pack(f"{order}HH{word}", tag, _CODES[kind], count)
        entries += entry + content.ljust(wide, b"\0")
    number = struct.pack(order + ("Q" if big else "H"), len(tags))
    return head + number + entries + bytes(wide) + data


SIZE: tuple[Tag, ...] = (
    (256, "H", (3,)), (257, "I", (2,)), (258, "H", (16, 16)), (277, "H", (2,)), (339, "H", (2, 2)),
)  # fmt: skip
PLACE: tuple[Tag, ...] = (
    (33550, "d", (30.0, 20.0, 0.0)),
    (33922, "d", (0.0, 0.0, 0.0, 500_000.0, 7_400_000.0, 0.0)),
    (34735, "H", (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 31983)),
    (42112, "s", (b'<GDALMetadata><Item name="DESCRIPTION" sample="1" role="description">uso &amp; '
                  b"solo</Item></GDALMetadata>\0",)),
    (42113, "s", (b"-9999\0",)),
)  # fmt: skip
TIFF = tiff(*SIZE, *PLACE)
