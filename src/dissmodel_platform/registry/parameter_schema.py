"""What a model says about its parameters: ``[model.parameter_schema.<name>]``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from dissmodel_platform.registry.problems import shown

ParameterType = Literal["integer", "number", "string", "boolean", "array", "object"]
"""Kind of value, under JSON Schema's names."""

TYPES: tuple[str, ...] = get_args(ParameterType)

SchemaFault = tuple[tuple[str, ...], str]
"""Keys below ``[model.parameter_schema]`` that lead to the fault, and a sentence."""

_TEXT_KEYS = ("unit", "title", "description")
_KNOWN_KEYS = ("type", "minimum", "maximum", "enum", *_TEXT_KEYS)

# In this order: for Python, a boolean is an integer too.
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (Mapping, "object"),
    ((list, tuple), "array"),
)

_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "null",
}


@dataclass(frozen=True, slots=True)
class ParameterSchema:
    """What one parameter may be.

    Parameters
    ----------
    type : str or None
        Kind of value; ``None`` where the spec gives neither a type nor a default.
    minimum, maximum : int, float or None
        Bounds, themselves allowed; numbers only.
    enum : tuple
        The values allowed; empty: any.
    unit, title, description : str
        For people; ``unit`` as the modeller writes it (``m/year``).
    """

    type: ParameterType | None = None
    minimum: float | None = None
    maximum: float | None = None
    enum: tuple[object, ...] = ()
    unit: str = ""
    title: str = ""
    description: str = ""

    def fault(self, value: object) -> str | None:
        """Say what is wrong with a value, or ``None``."""
        if self.type is not None and not has_type(value, self.type):
            return f"must be {_NAMES[self.type]}, not {described(value)}"
        if self.enum and not any(_same(value, allowed) for allowed in self.enum):
            return "must be one of " + ", ".join(shown(str(allowed)) for allowed in self.enum[:10])
        if isinstance(value, int | float) and not isinstance(value, bool):
            unit = f" {self.unit}" if self.unit else ""
            if self.minimum is not None and value < self.minimum:
                return f"must be at least {self.minimum}{unit}"
            if self.maximum is not None and value > self.maximum:
                return f"must be at most {self.maximum}{unit}"
        return None


def type_of(value: object) -> str:
    """JSON Schema's name for a value's kind; ``null`` for ``None``."""
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return "null" if value is None else type(value).__name__


def described(value: object) -> str:
    """Name a value's kind for a person: ``a list``."""
    return _NAMES.get(type_of(value), type_of(value))


def has_type(value: object, kind: str) -> bool:
    """Whether a value is of a kind; a whole float counts as an integer, as in JSON Schema."""
    actual = type_of(value)
    if kind == "number":
        return actual in ("integer", "number")
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return actual == kind


def same_kind(value: object, default: object) -> str | None:
    """Say how a value's kind differs from its default's, or ``None``; all numbers are one kind."""
    kind = type_of(default)
    if kind == "integer":
        kind = "number"
    if has_type(value, kind):
        return None
    return f"must be {_NAMES[kind]} as the model's default is, not {described(value)}"


def read_schemas(
    table: Mapping[str, object], defaults: Mapping[str, object]
) -> tuple[dict[str, ParameterSchema], list[SchemaFault]]:
    """Read ``[model.parameter_schema]``.

    Parameters
    ----------
    table : mapping
        The tables by parameter name.
    defaults : mapping
        The model's default values; each must fulfil its own schema.

    Returns
    -------
    schemas : dict of str to ParameterSchema
        The readable ones.
    faults : list of SchemaFault
        What is wrong with the others.
    """
    schemas: dict[str, ParameterSchema] = {}
    faults: list[SchemaFault] = []
    for name, entry in table.items():
        fault = _entry_fault(name, entry)
        if fault is None:
            schemas[name] = _read_entry(cast("Mapping[str, object]", entry), defaults.get(name))
            fault = _default_fault(name, schemas[name], defaults)
        if fault is not None:
            faults.append(fault)
    return schemas, faults


def _default_fault(
    name: str, schema: ParameterSchema, defaults: Mapping[str, object]
) -> SchemaFault | None:
    wrong = schema.fault(defaults[name]) if name in defaults else None
    return None if wrong is None else ((name,), f"The default of {shown(name)} {wrong}.")


def _read_entry(entry: Mapping[str, object], default: object) -> ParameterSchema:
    kind = entry.get("type")
    if kind is None and default is not None:
        kind = "number" if type_of(default) == "integer" else type_of(default)
    return ParameterSchema(
        type=cast("ParameterType | None", kind),
        minimum=cast("float | None", entry.get("minimum")),
        maximum=cast("float | None", entry.get("maximum")),
        enum=tuple(cast("list[object]", entry.get("enum", []))),
        unit=str(entry.get("unit", "")),
        title=str(entry.get("title", "")),
        description=str(entry.get("description", "")),
    )


def _entry_fault(name: str, entry: object) -> SchemaFault | None:  # noqa: PLR0911
    here = f"[model.parameter_schema] {shown(name)}"
    if not isinstance(entry, Mapping):
        return (name,), f"{here} must be a table with type, minimum, maximum, enum or unit."
    kind = entry.get("type")
    if kind is not None and kind not in TYPES:
        return (name, "type"), f"{here}: type must be one of {', '.join(TYPES)}."
    for key in ("minimum", "maximum"):
        bound = entry.get(key, 0)
        if not has_type(bound, "number"):
            return (name, key), f"{here}: {key} must be a number."
        if key in entry and kind not in (None, "integer", "number"):
            return (name, key), f"{here}: {key} only fits numbers, and the type is {kind}."
    low, high = entry.get("minimum", -math.inf), entry.get("maximum", math.inf)
    if low > high:
        return (name, "minimum"), f"{here}: minimum {low} is larger than maximum {high}."
    enum = entry.get("enum", [None])
    if not isinstance(enum, list) or not enum:
        return (name, "enum"), f"{here}: enum must be a list of the values allowed."
    if kind is not None and "enum" in entry and not all(has_type(item, kind) for item in enum):
        return (name, "enum"), f"{here}: every value of enum must be of type {kind}."
    for key in _TEXT_KEYS:
        if not isinstance(entry.get(key, ""), str):
            return (name, key), f"{here}: {key} must be text."
    return None


def unknown_schema_keys(table: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield (parameter, key) for each key of the schema that is not read."""
    for name, entry in table.items():
        if isinstance(entry, Mapping):
            for key in entry:
                if key not in _KNOWN_KEYS:
                    yield name, key


def _same(value: object, allowed: object) -> bool:
    """Equal, where ``true`` is not 1 but 1.0 is."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
