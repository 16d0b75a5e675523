"""The table of contents of a GeoPackage (OGC 12-128r19), read with the standard library's SQLite.

The database is opened read-only and as immutable (no journal, no lock, nothing written beside it),
with SQLite's own advice for files of strangers (https://sqlite.org/security.html) and a deadline
for its virtual machine.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from typing import Any

from dissmodel_platform.execution.headers.geotiff import Unreadable

MOST_LAYERS = 100
"""Layers that are listed."""

SECONDS = 2.0
"""For all queries of one file; counting features stops then."""

_LONGEST_TEXT = 200
_HEAP_BYTES = 64 * 1024**2
_STEPS = 10_000
_MOST_DESCRIPTORS = 64
_PRAGMAS = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    f"PRAGMA hard_heap_limit = {_HEAP_BYTES}",
)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
}
_CONTENTS = """
    SELECT c.table_name, c.data_type, c.min_x, c.min_y, c.max_x, c.max_y,
           s.organization, s.organization_coordsys_id, s.srs_name
    FROM gpkg_contents AS c LEFT JOIN gpkg_spatial_ref_sys AS s ON s.srs_id = c.srs_id
    ORDER BY c.table_name LIMIT ?
"""


def describe_geopackage(descriptor: int) -> dict[str, Any]:
    """Read the contents of an open file.

    Returns
    -------
    dict
        ``format``; ``crs`` and ``extent`` where all layers have one CRS, else ``None``; ``layers``:
        ``name``, ``kind`` (``features``, ``tiles``, ``attributes``), ``crs``, ``extent`` ([xmin,
        ymin, xmax, ymax] as the file states it), ``geometry_type`` and ``features``, how many
        there are (``None`` where counting takes too long).

    Raises
    ------
    Unreadable
        It is no GeoPackage, or a broken one.
    """
    if os.pread(descriptor, 16, 0) != b"SQLite format 3\0":
        raise Unreadable("it does not begin as a GeoPackage does")
    before = _open_files()
    address = f"file:/dev/fd/{descriptor}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(address, uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise Unreadable(f"SQLite says: {error}") from error
    try:
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        deadline = time.monotonic() + SECONDS
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        tables = _tables(connection)
        _check_same_file(descriptor, before)
        layers = _layers(connection, tables)
    except (sqlite3.Error, sqlite3.Warning, OverflowError, MemoryError) as error:
        raise Unreadable(f"SQLite says: {error}") from error
    finally:
        connection.close()
    crs = {layer["crs"] for layer in layers if layer["kind"] != "attributes"}
    extents = [layer["extent"] for layer in layers if layer["extent"]]
    is_one = len(crs) == 1
    return {
        "format": "GeoPackage",
        "crs": crs.pop() if is_one else None,
        "extent": _union(extents) if is_one and extents else None,
        "layers": layers,
    }


def _tables(connection: sqlite3.Connection) -> set[str]:
    """Name the true tables: a view or a virtual table could compute for ever."""
    rows = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
        " LIMIT 10000"
    )
    return {str(row[0]) for row in rows}


def _open_files() -> dict[int, tuple[int, int]]:
    """Identify the files that this process has open."""
    found = {}
    for descriptor in range(_MOST_DESCRIPTORS):
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue
        found[descriptor] = (status.st_dev, status.st_ino)
    return found


def _check_same_file(descriptor: int, before: dict[int, tuple[int, int]]) -> None:
    """See that SQLite, which opens files by name, has opened the one that we were given."""
    now = _open_files()
    opened = {file for number, file in now.items() if before.get(number) != file}
    if opened != {now[descriptor]}:
        raise Unreadable("it was replaced while it was read")


def _layers(connection: sqlite3.Connection, tables: set[str]) -> list[dict[str, Any]]:
    if not {"gpkg_contents", "gpkg_spatial_ref_sys"} <= tables:
        raise Unreadable("it lacks the tables that every GeoPackage has")
    geometry_types = {}
    if "gpkg_geometry_columns" in tables:
        geometry_types = dict(
            connection.execute(
                "SELECT table_name, geometry_type_name FROM gpkg_geometry_columns LIMIT ?",
                [MOST_LAYERS],
            ).fetchall()
        )
    layers = []
    for name, kind, *numbers, organization, code, srs_name in connection.execute(
        _CONTENTS, [MOST_LAYERS]
    ).fetchall():
        extent = [float(n) for n in numbers if isinstance(n, int | float) and math.isfinite(n)]
        crs = f"{organization}:{code}" if isinstance(code, int) and code > 0 else srs_name
        layers.append(
            {
                "name": _text(name),
                "kind": _text(kind),
                "crs": None if str(organization).upper() == "NONE" and code == -1 else _text(crs),
                "extent": extent if len(extent) == 4 else None,
                "geometry_type": _text(geometry_types.get(name)),
                "features": _count(connection, name) if name in tables else None,
            }
        )
    return layers


def _count(connection: sqlite3.Connection, table: str) -> int | None:
    quoted = table.replace('"', '""')
    try:
        # not count(*), which is one step of the virtual machine, and so has no deadline
        row = connection.execute(f'SELECT sum(1) FROM "{quoted}"').fetchone()  # noqa: S608
    except sqlite3.OperationalError:  # the deadline
        return None
    return int(row[0] or 0)


def _text(value: object) -> str | None:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else None


def _union(extents: list[list[float]]) -> list[float]:
    xmin, ymin, xmax, ymax = zip(*extents, strict=True)
    return [min(xmin), min(ymin), max(xmax), max(ymax)]
