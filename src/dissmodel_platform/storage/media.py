"""Media types by file name, for the formats of the field.

A table of our own: Python's `mimetypes` reads what the machine happens to have installed, so the
same file would get different types on two servers. Registered types are IANA's
(https://www.iana.org/assignments/media-types/); the others are those of the format's own authority,
named where there is one.
"""

from __future__ import annotations

UNKNOWN = "application/octet-stream"

_BY_SUFFIX = {
    # vectors
    ".gpkg": "application/geopackage+sqlite3",  # OGC 12-128r19
    ".geojson": "application/geo+json",  # RFC 7946
    ".shp": "application/vnd.shp",
    ".shx": "application/vnd.shx",
    ".dbf": "application/vnd.dbf",
    ".prj": "text/plain",
    ".cpg": "text/plain",
    ".fgb": "application/vnd.flatgeobuf",
    ".gml": "application/gml+xml",
    ".kml": "application/vnd.google-earth.kml+xml",
    ".kmz": "application/vnd.google-earth.kmz",
    # rasters and grids
    ".tif": "image/tiff; application=geotiff",  # OGC 19-008r4
    ".tiff": "image/tiff; application=geotiff",
    ".jp2": "image/jp2",
    ".asc": "text/plain",  # ESRI's ASCII grid
    ".vrt": "application/xml",
    ".nc": "application/x-netcdf",
    ".nc4": "application/x-netcdf",
    ".h5": "application/x-hdf5",
    ".hdf5": "application/x-hdf5",
    ".grib2": "application/wmo-GRIB2",
    ".las": "application/vnd.las",
    ".laz": "application/vnd.laszip",
    # tables
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/vnd.apache.parquet",
    ".geoparquet": "application/vnd.apache.parquet",
    ".sqlite": "application/vnd.sqlite3",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    # archives; a zipped Zarr (`.zarr.zip`) or shapefile is an archive to whoever receives it
    ".zip": "application/zip",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".tar": "application/x-tar",
    # pictures and documents
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
    ".html": "text/html",
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".log": "text/plain",
    # structured text
    ".json": "application/json",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".xml": "application/xml",
    ".qml": "application/xml",  # QGIS layer style
    ".ipynb": "application/x-ipynb+json",
    ".py": "text/x-python",
}


def media_type(file_name: str) -> str:
    """Return the media type that a file's name promises; the bytes are not looked at.

    Parameters
    ----------
    file_name : str
        The name, or a path or URI that ends in it; upper and lower case are the same.

    Returns
    -------
    str
        ``application/octet-stream`` for a suffix that is not known, or none.
    """
    stem, dot, suffix = file_name.rpartition("/")[2].rpartition(".")
    return _BY_SUFFIX.get(f".{suffix.lower()}", UNKNOWN) if dot and stem else UNKNOWN
