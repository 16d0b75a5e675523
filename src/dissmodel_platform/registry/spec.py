"""One model of the registry: a TOML file read into a typed, JSON-able ``ModelSpec``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from dissmodel_platform.registry.bounded_toml import TomlDocument, TomlFault, read_toml
from dissmodel_platform.registry.parameter_schema import ParameterSchema, read_schemas
from dissmodel_platform.registry.problems import MAX_PROBLEMS, SpecProblem
from dissmodel_platform.registry.spec_checks import find_problems, name_fault, own_data

_LFS_POINTER = b"version https://git-lfs.github.com/"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as its file in the registry describes it.

    Parameters
    ----------
    name : str
        Key in the registry: the file's stem.
    declared_name : str or None
        ``[model].name``; may differ from the stem.
    class_name : str or None
        ``[model].class``: the executor's name in dissmodel's ``ExecutorRegistry``. Without it the
        model is listed but a run fails, naming the classes that the package registers.
    package : str or None
        What to install; ``None`` for an executor that the platform ships.
    executor_module : str or None
        Module that defines the executor, where importing the package alone does not.
    dissmodel : str or None
        Constraint on dissmodel's version (``>=0.6,<0.7``).
    description : str
        For people.
    parameters : dict
        Default values, ``[model.parameters]``.
    parameter_schema : dict of str to ParameterSchema
        Empty where the model declares none.
    extra : dict
        The model's own data: every other key of ``[model]``.
    bands, columns : dict
        Canonical vocabulary: canonical name to the default name (a band may be a number, from 1).
    resources : dict
        Limits of a run, narrower than the operator's.
    example : dict
        A run that shows that the model works.
    tags : tuple of str
        For searching.
    document : dict
        The whole file as JSON data; dates and times are strings in ISO 8601.
    source_text : str
        The file as it stands in the registry.
    """

    name: str
    declared_name: str | None
    class_name: str | None
    package: str | None
    executor_module: str | None
    dissmodel: str | None
    description: str
    parameters: dict[str, object]
    parameter_schema: dict[str, ParameterSchema]
    extra: dict[str, object]
    bands: dict[str, str | int]
    columns: dict[str, str | int]
    resources: dict[str, object]
    example: dict[str, object]
    tags: tuple[str, ...]
    document: dict[str, object] = field(repr=False)
    source_text: str = field(repr=False)

    def merged_parameters(self, request: Mapping[str, object]) -> dict[str, object]:
        """Return what the executor finds in ``record.parameters``, as under dissmodel's own CLI.

        The model's own data, then its defaults, then the request: the right wins, key by key. The
        result shares nothing with this object.
        """
        return copy.deepcopy({**self.extra, **self.parameters, **request})


@dataclass(frozen=True, slots=True)
class ParsedSpec:
    """What became of one file: a spec, unless a problem is an error."""

    spec: ModelSpec | None
    problems: tuple[SpecProblem, ...]

    @property
    def errors(self) -> tuple[SpecProblem, ...]:
        """The problems that keep the file from being published."""
        return tuple(problem for problem in self.problems if problem.is_error)


def parse_spec(path: str, text: bytes | str) -> ParsedSpec:
    """Read one file of the registry.

    Never raises, and takes under 1 s and 150 MB, whatever the file holds.

    Parameters
    ----------
    path : str
        Where the file stands (``models/flood_vector.toml``); its stem is the model's name.
    text : bytes or str
        The file.
    """
    problem = name_fault(path, PurePosixPath(path).stem) or _content_fault(path, text)
    if problem is not None:
        return ParsedSpec(None, (problem,))
    document = read_toml(text)
    if isinstance(document, TomlFault):
        fault = document
        problem = SpecProblem(path, fault.code, fault.message, fault.line, fault.column)
        return ParsedSpec(None, (problem,))
    problems = tuple(islice(find_problems(path, document), MAX_PROBLEMS))
    has_error = any(problem.is_error for problem in problems)
    if has_error:
        return ParsedSpec(None, problems)
    source_text = text if isinstance(text, str) else text.decode("utf-8")
    return ParsedSpec(_build_spec(path, document, source_text), problems)


def _content_fault(path: str, text: bytes | str) -> SpecProblem | None:
    if not text.strip():
        return SpecProblem(path, "empty-file", "The file is empty.")
    start = text[:100]
    raw = start.encode("utf-8", "replace") if isinstance(start, str) else start
    if raw.startswith(_LFS_POINTER):
        message = "The file is a pointer to Git LFS; commit the file itself (git lfs untrack)."
        return SpecProblem(path, "lfs-pointer", message)
    return None


def _build_spec(path: str, document: TomlDocument, source_text: str) -> ModelSpec:
    """Take the checked values; `find_problems` has found them to be of the right kinds."""
    model: dict[str, Any] = document.table["model"]  # type: ignore[assignment]
    extra = own_data(model)
    # dissmodel's command line reads both forms, a list and a table that holds one.
    land_use_types = extra.get("land_use_types")
    if isinstance(land_use_types, dict):
        extra["land_use_types"] = land_use_types.get("types", [])
    parameters = model.get("parameters", {})
    schemas, _ = read_schemas(model.get("parameter_schema", {}), {**extra, **parameters})
    return ModelSpec(
        name=PurePosixPath(path).stem,
        declared_name=model.get("name"),
        class_name=model.get("class"),
        package=model.get("package"),
        executor_module=model.get("executor_module"),
        dissmodel=model.get("dissmodel"),
        description=model.get("description", ""),
        parameters=parameters,
        parameter_schema=schemas,
        extra=extra,
        bands=model.get("bands", {}),
        columns=model.get("columns", {}),
        resources=model.get("resources", {}),
        example=model.get("example", {}),
        tags=tuple(model.get("tags", ())),
        document=document.table,
        source_text=source_text,
    )
