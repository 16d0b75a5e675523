"""``catalog.yaml``: names for data sets, in the form of an Intake catalogue (version 1).

Read here are ``sources``, each with ``driver``, ``args``, ``description`` and ``metadata``
(https://intake.readthedocs.io/en/v1/catalog.html). Templates, parameters and plugins of Intake are
not: an address is what it says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import yaml

from dissmodel_platform.registry.problems import MAX_PROBLEMS, SpecProblem, shown

MAX_BYTES = 256 * 1024
"""Largest catalogue that is read, in bytes."""

PATH = "catalog.yaml"

CATALOG_PREFIX = "catalog:"
"""How an ``input_dataset`` names a data set of the registry's catalogue."""

_MAX_DEPTH = 20
_MAX_NODES = 20_000
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

    One bad source never hides the others.
    """
    try:
        document = _load(content)
    except _Refused as refused:
        return ParsedCatalog(None, (refused.problem,))
    if not isinstance(document, Mapping) or not isinstance(document.get("sources"), Mapping):
        message = "The catalogue needs a mapping `sources` at its top; see the template's."
        return ParsedCatalog(None, (SpecProblem(PATH, "no-sources", message),))
    sources: dict[str, CatalogSource] = {}
    problems: list[SpecProblem] = []
    if document.get("version", 1) != 1:
        message = "Only version 1 of Intake's catalogues is read; write `version: 1`."
        problems.append(SpecProblem(PATH, "catalog-version", message, severity="warning"))
    for name, entry in document["sources"].items():
        fault = _entry_fault(name, entry)
        if fault is None:
            sources[name] = _source(name, entry)
        elif len(problems) < MAX_PROBLEMS:
            problems.append(SpecProblem(PATH, "invalid-source", fault))
    return ParsedCatalog(sources, tuple(problems))


class _Refused(Exception):
    def __init__(self, code: str, message: str, mark: yaml.Mark | None = None) -> None:
        super().__init__(message)
        line = None if mark is None else mark.line + 1
        column = None if mark is None else mark.column + 1
        self.problem = SpecProblem(PATH, code, message, line, column)


class _Loader(yaml.SafeLoader):
    """Plain data only: no aliases (they multiply), no tags, no duplicate keys, bounded nesting."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _Refused("yaml-alias", "Aliases (*name) are not read; write it out.", mark)
        self._depth += 1
        self._nodes += 1
        if self._depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _Refused("too-complex", "The catalogue is nested too deeply or too large.", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if not isinstance(key_node, yaml.ScalarNode) or key in seen:
                text = "A key must be one word, and may stand once in its mapping."
                raise _Refused("invalid-key", text, key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def _load(content: bytes) -> object:
    if len(content) > MAX_BYTES:
        raise _Refused("too-large", f"The catalogue is larger than {MAX_BYTES // 1024} kB.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Refused("not-utf8", "The catalogue is not UTF-8 text; save it as such.") from error
    try:
        loader = _Loader(text)
        try:
            return _plain(loader.get_single_data())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        what = " ".join(str(error.problem or error.context).split())
        raise _Refused(
            "invalid-yaml", f"The catalogue is no YAML: {what}.", error.problem_mark
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise _Refused("invalid-yaml", f"The catalogue is no YAML: {error}.") from error


def _plain(value: object) -> object:
    """Return a value as JSON can hold it; dates become ISO 8601."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, date):
        return value.isoformat()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _Refused("invalid-value", f"{shown(repr(value))} cannot be held in JSON; write text.")


def _entry_fault(name: str, entry: object) -> str | None:
    """Return what is wrong with one source, or ``None``."""
    if not _NAME.fullmatch(name):
        return f"{shown(name)} cannot be a source's name; use letters, digits, '_', '-', '.'."
    if not isinstance(entry, Mapping) or not isinstance(entry.get("driver"), str):
        return f"Source {name!r} must be a mapping with a `driver`, such as `shapefile`."
    if not isinstance(entry.get("metadata", {}), Mapping):
        return f"Source {name!r}: `metadata` must be a mapping."
    args = entry.get("args")
    fault = _address_fault(args.get("urlpath") if isinstance(args, Mapping) else None)
    return None if fault is None else f"Source {name!r} {fault}"


def _address_fault(uri: object) -> str | None:
    if not isinstance(uri, str) or not uri:
        return "needs `args: {urlpath: …}`, one address as text."
    if _TEMPLATE.search(uri):
        return "has a template ({{ }}) in its address; write the address out."
    if not uri.startswith(("s3://", "http://", "https://")) or not uri.isprintable():
        return "needs an address that begins with s3://, https:// or http://."
    return None


def _source(name: str, entry: Mapping[str, Any]) -> CatalogSource:
    return CatalogSource(
        name=name,
        driver=entry["driver"],
        uri=entry["args"]["urlpath"],
        description=str(entry.get("description") or ""),
        args=dict(entry["args"]),
        metadata=dict(entry.get("metadata") or {}),
    )
