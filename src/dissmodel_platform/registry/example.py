"""``[model.example]``: a small run that shows that a model works; read by the registry's check.

=============  =====================================================================================
``input``      Path of a file in the registry's repository, ``catalog:NAME``, an ``http(s)``
               address, or an ``s3://`` one of the platform's store; empty or left out: no input.
``parameters`` What the run sets, over the defaults.
=============  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import cast

from dissmodel_platform.registry.bounded_toml import TomlDocument
from dissmodel_platform.registry.catalog import CATALOG_PREFIX
from dissmodel_platform.registry.parameter_schema import described
from dissmodel_platform.registry.parameters import check_parameters
from dissmodel_platform.registry.problems import Severity, SpecProblem, shown
from dissmodel_platform.registry.spec import ModelSpec

KEYS = ("input", "parameters")


@dataclass(frozen=True)
class Example:
    """A run to try.

    Parameters
    ----------
    input : str
        As in the spec; empty: none.
    parameters : dict
        What the request of the run sets.
    """

    input: str
    parameters: dict[str, object]

    @property
    def is_file(self) -> bool:
        """Whether the input is a path in the registry's repository."""
        has_address = self.input.startswith((CATALOG_PREFIX, "http://", "https://", "s3://"))
        return bool(self.input) and not has_address


def has_example(spec: ModelSpec) -> bool:
    """Say whether a spec has the table; an empty one is a run on the defaults."""
    model = spec.document["model"]
    return isinstance(model, dict) and "example" in model


def read_example(spec: ModelSpec, document: TomlDocument) -> tuple[Example, list[SpecProblem]]:
    """Read the example of a spec that has one.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    document : TomlDocument
        The file it was read from, for the places of problems.

    Returns
    -------
    example : Example
        To be run where no problem is an error.
    problems : list of SpecProblem
        What is wrong; where the input lies has not been looked at.
    """
    table = spec.example
    given, parameters = table.get("input", ""), table.get("parameters", {})
    example = Example(
        given if isinstance(given, str) else "",
        cast("dict[str, object]", parameters) if isinstance(parameters, dict) else {},
    )
    return example, list(_Checks(spec, document).problems(example))


class _Checks:
    def __init__(self, spec: ModelSpec, document: TomlDocument) -> None:
        self._spec = spec
        self._document = document

    def problems(self, example: Example) -> Iterator[SpecProblem]:
        yield from self._kinds()
        if example.is_file and not _stays_inside(example.input):
            message = (
                f"input {shown(example.input)} is no path in this repository; give one from its "
                f"top, such as data/grid.zip, or an address"
            )
            yield self._problem(message, "input")
        check = check_parameters(self._spec, example.parameters)
        for name, fault in check.errors.items():
            yield self._problem(f"parameters: {shown(name)} {fault}", "parameters", name)
        for sentence in check.warnings:
            yield self._problem(sentence, "parameters", severity="warning")

    def _kinds(self) -> Iterator[SpecProblem]:
        table = self._spec.example
        for key, kind, name in (("input", str, "text"), ("parameters", dict, "a table")):
            if not isinstance(table.get(key, kind()), kind):
                yield self._problem(f"{key} must be {name}, not {described(table[key])}", key)
        for key in table:
            if key not in KEYS:
                near = get_close_matches(key[:20], KEYS, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                yield self._problem(f"{shown(key)} is not read{hint}", key, severity="warning")

    def _problem(self, message: str, *keys: str, severity: Severity = "error") -> SpecProblem:
        line, column = self._document.place_of(("model", "example", *keys))
        path = f"models/{self._spec.name}.toml"
        text = f"[model.example] {message}{'' if message.endswith('?') else '.'}"
        return SpecProblem(path, "invalid-example", text, line, column, severity)


def _stays_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return path.isprintable() and "\\" not in path and parts[:1] != ("/",) and ".." not in parts
