"""What a spec must and should say: the checks behind ``parse_spec``, errors before warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import PurePosixPath
from typing import cast

from dissmodel_platform.registry.bounded_toml import TomlDocument
from dissmodel_platform.registry.parameter_schema import (
    described,
    read_schemas,
    unknown_schema_keys,
)
from dissmodel_platform.registry.problems import Severity, SpecProblem, shown
from dissmodel_platform.registry.resources import KEYS, resource_faults

REGISTRATION_KEYS = frozenset(
    {"executor_module", "name", "class", "description", "package", "dissmodel"}
)
"""Keys of ``[model]`` that say which code to run; never parameters (dissmodel's own set)."""

PLATFORM_KEYS = frozenset(
    {"parameters", "parameter_schema", "bands", "columns", "resources", "example", "tags"}
)
"""Keys of ``[model]`` that this platform reads; every other key is the model's own data."""

LONGEST_TEXT = 1_000
"""Characters of a registration key's text; listings hold it for every model."""

LONGEST_TEXTS = {"description": 10_000}
"""The same, for keys that may have more."""

MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""A file's stem that can be a model's name: it stands in URLs, paths and command lines."""

_KNOWN_KEYS = REGISTRATION_KEYS | PLATFORM_KEYS
_TABLES = ("parameters", "parameter_schema", "bands", "columns", "resources", "example")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST_GUESSED_KEY = 24


def name_fault(path: str, stem: str) -> SpecProblem | None:
    """Refuse a file whose stem cannot be a model's name."""
    if MODEL_NAME.fullmatch(stem):
        return None
    return SpecProblem(
        path,
        "invalid-name",
        f"{shown(stem)} cannot be a model's name; use up to 100 letters (a to z), digits, '_', "
        "'-' and '.', starting with a letter, a digit or '_'.",
    )


def find_problems(path: str, document: TomlDocument) -> Iterator[SpecProblem]:
    """Yield what is wrong with a document: all errors first, then the warnings.

    Once this has yielded no error, callers can assume that ``[model]`` is a table, that its
    registration keys are text, and that its other known keys have their kind.
    """
    checks = _Checks(path, document)
    if not isinstance(document.table.get("model"), dict):
        yield checks.no_model_table()
        return
    yield from checks.registration_errors()
    yield from checks.table_errors()
    yield from checks.warnings()


def own_data(model: dict[str, object]) -> dict[str, object]:
    """Return the model's own keys of ``[model]``, of which the platform knows nothing."""
    return {key: value for key, value in model.items() if key not in _KNOWN_KEYS}


class _Checks:
    def __init__(self, path: str, document: TomlDocument) -> None:
        self.path = path
        self.document = document
        model = document.table.get("model")
        self.model = cast("dict[str, object]", model) if isinstance(model, dict) else {}

    def _table(self, key: str) -> dict[str, object]:
        return cast("dict[str, object]", self.model.get(key, {}))

    def _problem(
        self, code: str, message: str, *place: str, severity: Severity = "error"
    ) -> SpecProblem:
        line, column = self.document.place_of(place)
        return SpecProblem(self.path, code, message, line, column, severity)

    def no_model_table(self) -> SpecProblem:
        if "model" in self.document.table:
            kind = described(self.document.table["model"])
            return self._problem("invalid-type", f"model must be a table, not {kind}.", "model")
        near = get_close_matches("model", [key[:20] for key in islice(self.document.table, 20)], 1)
        hint = f" Is [{near[0]}] meant to be it?" if near else ""
        return self._problem("no-model-table", f"The file has no [model] table.{hint}", *near)

    def registration_errors(self) -> Iterator[SpecProblem]:
        """Check the keys that name the code to run; deeper checks are the installer's."""
        for key in sorted(REGISTRATION_KEYS & self.model.keys()):
            value = self.model[key]
            if not isinstance(value, str):
                message = f"{key} must be text, not {described(value)}."
                yield self._problem("invalid-type", message, "model", key)
            elif len(value) > (most := LONGEST_TEXTS.get(key, LONGEST_TEXT)):
                message = f"{key} has {len(value)} characters, and {most} are the most."
                yield self._problem("too-long", message, "model", key)
            elif key != "description" and (fault := _text_fault(value)) is not None:
                code = f"invalid-{key.replace('_', '-')}"
                yield self._problem(code, f"{key} {fault}.", "model", key)

    def table_errors(self) -> Iterator[SpecProblem]:
        unfit = [key for key in _TABLES if not isinstance(self.model.get(key, {}), dict)]
        for key in unfit:
            message = f"[model.{key}] must be a table, not {described(self.model[key])}."
            yield self._problem("invalid-type", message, "model", key)
        tags = self.model.get("tags", [])
        if not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
            yield self._problem("invalid-type", "tags must be a list of text.", "model", "tags")
        for key in ("bands", "columns"):
            if key not in unfit:
                yield from self._vocabulary_errors(key)
        if "parameters" not in unfit and "parameter_schema" not in unfit:
            defaults = {**own_data(self.model), **self._table("parameters")}
            _, faults = read_schemas(self._table("parameter_schema"), defaults)
            for keys, message in faults:
                yield self._problem("invalid-schema", message, "model", "parameter_schema", *keys)
        if "resources" not in unfit:
            for key, fault in sorted(resource_faults(self._table("resources"))):
                message = f"[model.resources] {key} {fault}."
                yield self._problem("invalid-resource", message, "model", "resources", key)

    def _vocabulary_errors(self, key: str) -> Iterator[SpecProblem]:
        for canonical, value in self._table(key).items():
            is_number = key == "bands" and isinstance(value, int) and not isinstance(value, bool)
            if not (is_number or (isinstance(value, str) and value)):
                wanted = "a name or a band's number" if key == "bands" else "a name"
                message = f"[model.{key}] {shown(canonical)} must be {wanted}."
                yield self._problem("invalid-type", message, "model", key, canonical)

    def warnings(self) -> Iterator[SpecProblem]:
        stem = PurePosixPath(self.path).stem
        declared = self.model.get("name", stem)
        if declared != stem:
            message = (
                f"name is {shown(str(declared))}, but the model goes by its file's name, {stem!r}."
            )
            yield self._problem("name-differs", message, "model", "name", severity="warning")
        if "class" not in self.model:
            message = "class is missing: runs will fail until it names the executor."
            yield self._problem("no-class", message, "model", severity="warning")
        for key in own_data(self.model):
            meant = _meant_key(key) if len(key) <= _LONGEST_GUESSED_KEY else None
            if meant is not None and meant not in self.model:
                message = f"{shown(key)} is taken for the model's own data; did you mean {meant!r}?"
                yield self._problem("unknown-key", message, "model", key, severity="warning")
        for key in self.document.table:
            if key in _KNOWN_KEYS:
                message = f"{shown(key)} stands outside [model] and is not read; move it there."
                yield self._problem("outside-model", message, key, severity="warning")
        for key in self._table("resources").keys() - KEYS:
            message = (
                f"[model.resources] {shown(key)} is not read; known are {', '.join(sorted(KEYS))}."
            )
            where = ("model", "resources", key)
            yield self._problem("unknown-resource", message, *where, severity="warning")
        for name, key in unknown_schema_keys(self._table("parameter_schema")):
            message = f"[model.parameter_schema] {shown(name)}: {shown(key)} is not read."
            place = ("model", "parameter_schema", name, key)
            yield self._problem("unknown-schema-key", message, *place, severity="warning")


@lru_cache(maxsize=4096)
def _meant_key(key: str) -> str | None:
    """Return the key of the platform that this one looks like a misspelling of."""
    plain = key.lower().replace("-", "_")
    if plain in _KNOWN_KEYS:
        return plain
    return next(iter(get_close_matches(plain, sorted(_KNOWN_KEYS), n=1, cutoff=0.8)), None)


def _text_fault(value: str) -> str | None:
    if not value.strip():
        return "is empty; fill it in or leave it out"
    if _CONTROL.search(value):
        return "holds a control character"
    if value.lstrip().startswith("-"):
        return "starts with '-', which a tool would take for an option"
    return None
