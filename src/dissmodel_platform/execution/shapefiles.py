"""Shapefiles: one data set in several files beside one another, named by its ``.shp``.

Names and meanings are those of the ESRI Shapefile Technical Description (July 1998) and of GDAL's
driver (https://gdal.org/drivers/vector/shapefile.html).
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit, urlunsplit

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.storage.uris import is_web

REQUIRED = (".shx", ".dbf")
"""Index of the geometries, and attributes: without them the data set cannot be read."""

OPTIONAL = (".prj", ".cpg", ".qix", ".sbn", ".sbx")
"""CRS, encoding of the attributes, and spatial indexes: a data set may have them."""

_MAIN = ".shp"


def side_addresses(address: str) -> dict[str, str]:
    """Return where the side files of an input may be, by suffix; none for what is no ``.shp``.

    Suffixes are in lower case, addresses in the case of the ``.shp``'s own, with its query.
    """
    web = urlsplit(address) if is_web(address) else None
    path = web.path if web is not None else address
    name = path.rpartition("/")[2]
    if not name.lower().endswith(_MAIN) or len(name) == len(_MAIN):
        return {}
    sides = {
        suffix: path[: -len(name)] + local_side_name(name, suffix) for suffix in REQUIRED + OPTIONAL
    }
    if web is None:
        return sides
    return {suffix: urlunsplit(web._replace(path=side)) for suffix, side in sides.items()}


def side_addresses_among(address: str, names: Collection[str]) -> dict[str, str]:
    """Return which of some names beside a local ``.shp`` are its side files, in whatever case."""
    found = {}
    for suffix, side in side_addresses(address).items():
        directory, _, wanted = side.rpartition("/")
        stem = wanted[: -len(suffix)]
        spelt = [name for name in sorted(names) if name[: -len(suffix)] == stem]
        spelt = [name for name in spelt if name[-len(suffix) :].lower() == suffix]
        if spelt:
            found[suffix] = f"{directory}/{wanted if wanted in spelt else spelt[0]}"
    return found


def local_side_name(name: str, suffix: str) -> str:
    """Return the name of a side file beside a ``.shp`` of a name, in the case of its suffix."""
    stem, ending = name[: -len(_MAIN)], name[-len(_MAIN) :]
    return stem + (suffix.upper() if ending.isupper() else suffix)


def check_complete(address: str, found: Collection[str]) -> None:
    """See that a shapefile has what it needs; fine for what is no ``.shp``.

    Parameters
    ----------
    address : str
        Of the ``.shp``.
    found : collection of str
        Suffixes of the side files that there are.

    Raises
    ------
    InvalidInput
        A required one is missing.
    """
    missing = [suffix for suffix in REQUIRED if suffix not in found]
    if missing and side_addresses(address):
        names = " and ".join(missing)
        raise InvalidInput(
            f"The shapefile {address} has no {names} beside it, without which it cannot be read; "
            f"put {names} there under the same name, or give one zip with all of its files."
        )
