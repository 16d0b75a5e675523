"""``catalog.yaml``: names for data sets, in the form of an Intake catalogue (version 1).

Read here are ``sources``, each with ``driver``, ``args``, ``description`` and ``metadata``
(https://intake.readthedocs.io/en/v1/catalog.html). Templates, parameters and plugins of Intake are
not: an address is what it says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dissmodel_platform.registry.bounded_yaml import YamlRefused, YamlValue, read_yaml
from dissmodel_platform.registry.problems import MAX_PROBLEMS, SpecProblem, shown

MAX_BYTES = 256 * 1024
"""Largest catalogue that is read, in bytes."""

PATH = "catalog.yaml"

CATALOG_PREFIX = "catalog:"
"""How an ``input_dataset`` names a data set of the registry's catalogue."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_TEMPLATE = re.compile(r"\{\{|\}\}")


@dataclass(frozen=True)
class CatalogSource:
    """One data set.

    Parameters
    ----------
    name : str
        What ``catalog:NAME`` in an ``input_dataset`` refers to.
    driver : str
        Intake's name for the kind of file; for people and other programs.
    uri : str
        Address, ``args.urlpath``.
    description : str
        For people.
    args, metadata : dict
        As in the file.
    """

    name: str
    driver: str
    uri: str
    description: str
    args: dict[str, Any]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class ParsedCatalog:
    """What became of the file: the good sources, and what is wrong with the others.

    Parameters
    ----------
    sources : dict of str to CatalogSource, or None
        ``None``: the file as a whole cannot be read.
    problems : tuple of SpecProblem
        At most ``MAX_PROBLEMS``.
    """

    sources: dict[str, CatalogSource] | None
    problems: tuple[SpecProblem, ...]


def parse_catalog(content: bytes) -> ParsedCatalog:
    """Read a catalogue; never raises, and takes time and memory in proportion to the file.

    One bad source never hides the others. After this, callers can assume that the sources encode as
    UTF-8 JSON that PostgreSQL can hold.
    """
    try:
        root = read_yaml(content, max_bytes=MAX_BYTES)
    except YamlRefused as refused:
        problem = SpecProblem(PATH, refused.code, str(refused), refused.line, refused.column)
        return ParsedCatalog(None, (problem,))
    document = dict((root and root.entries()) or ())
    entries = document["sources"].entries() if "sources" in document else None
    if entries is None:
        message = "The catalogue needs a mapping `sources` at its top; see the template's."
        return ParsedCatalog(None, (SpecProblem(PATH, "no-sources", message),))
    problems = list(_version_problems(document.get("version")))
    sources: dict[str, CatalogSource] = {}
    times = Counter(name for name, _ in entries)
    for name, value in entries:
        try:
            entry = value.plain()
        except YamlRefused as refused:
            message = f"Source {shown(name)} is not read: {refused}"
            place = refused.line, refused.column
            problems.append(SpecProblem(PATH, "invalid-source", message, *place))
            continue
        fault = _entry_fault(name, entry, times[name])
        if fault is None:
            sources[name] = _source(name, entry)
        else:
            message = f"Source {shown(name)} {fault}"
            place = value.line, value.column
            problems.append(SpecProblem(PATH, "invalid-source", message, *place))
    return ParsedCatalog(sources, tuple(problems[:MAX_PROBLEMS]))


def _version_problems(version: YamlValue | None) -> Iterator[SpecProblem]:
    try:
        is_read = version is None or version.plain() == 1
    except YamlRefused:
        is_read = False
    if not is_read:
        message = "Only version 1 of Intake's catalogues is read; write `version: 1`."
        yield SpecProblem(PATH, "catalog-version", message, severity="warning")


def _entry_fault(name: str, entry: object, times: int) -> str | None:
    """Return what is wrong with one source, to be read after its name, or ``None``."""
    if not _NAME.fullmatch(name):
        return "needs another name: use letters, digits, '_', '-' and '.'."
    if times > 1:
        return "is there more than once; none of them is read."
    if not isinstance(entry, Mapping) or not isinstance(entry.get("driver"), str):
        return "must be a mapping with a `driver`, such as `shapefile`."
    if not isinstance(entry.get("metadata", {}), Mapping):
        return "must have a mapping as its `metadata`."
    args = entry.get("args")
    return _address_fault(args.get("urlpath") if isinstance(args, Mapping) else None)


def _address_fault(uri: object) -> str | None:
    if not isinstance(uri, str) or not uri:
        return "needs `args: {urlpath: …}`, one address as text."
    if _TEMPLATE.search(uri):
        return "has a template ({{ }}) in its address; write the address out."
    if not uri.startswith(("s3://", "http://", "https://")) or not uri.isprintable():
        return "needs an address that begins with s3://, https:// or http://."
    return None


def _source(name: str, entry: Any) -> CatalogSource:
    return CatalogSource(
        name=name,
        driver=entry["driver"],
        uri=entry["args"]["urlpath"],
        description=str(entry.get("description") or ""),
        args=dict(entry["args"]),
        metadata=dict(entry.get("metadata") or {}),
    )
