"""What a request may set: parameters, bands and columns against the model's own spec."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from dissmodel_platform.registry.nearest import nearest_names
from dissmodel_platform.registry.parameter_schema import same_kind
from dissmodel_platform.registry.problems import shown
from dissmodel_platform.registry.spec import ModelSpec
from dissmodel_platform.registry.toml_bounds import MAX_DEPTH

_MOST_HINTS = 20
_MOST_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class ParameterCheck:
    """What is wrong with a request's values.

    Parameters
    ----------
    errors : dict of str to str
        Refused names and why; empty: the request may run.
    warnings : list of str
        Sentences for the experiment's log; of very many, the first ones and how many more.
    """

    errors: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def check_parameters(spec: ModelSpec, given: Mapping[str, object]) -> ParameterCheck:
    """Check a request's parameters before anything is queued.

    With a schema, types, bounds and names are the schema's. Without one, a value's kind must be
    its default's (whole and decimal numbers are one kind), and an unknown name is accepted with
    a warning, since models read names that they declare nowhere.
    """
    check = ParameterCheck()
    defaults = {**spec.extra, **spec.parameters}
    known = {**dict.fromkeys(spec.parameter_schema), **dict.fromkeys(defaults)}
    hints = _Hints(known)
    undeclared = 0
    for name, value in given.items():
        unfit = _unfit_for_json(value) or _unfit_for_json(name)
        if unfit is not None:
            check.errors[name] = unfit
        elif name in spec.parameter_schema:
            fault = spec.parameter_schema[name].fault(value)
            if fault is not None:
                check.errors[name] = fault
        elif name in defaults:
            fault = same_kind(value, defaults[name])
            if fault is not None:
                check.errors[name] = fault
        elif spec.parameter_schema:
            check.errors[name] = f"is not a parameter of {spec.name!r}{hints.for_name(name)}"
        else:
            undeclared += 1
            if undeclared <= _MOST_WARNINGS:
                check.warnings.append(
                    f"Parameter {shown(name)} is not among the defaults of {spec.name!r}"
                    f"{hints.for_name(name)}"
                )
    if undeclared > _MOST_WARNINGS:
        check.warnings.append(
            f"{undeclared - _MOST_WARNINGS} more parameters are not among the defaults of "
            f"{spec.name!r}"
        )
    return check


def check_names(declared: Mapping[str, str | int], given: Mapping[str, object]) -> dict[str, str]:
    """Check a request's ``band_map`` or ``column_map`` against ``spec.bands`` or ``spec.columns``.

    Returns
    -------
    dict of str to str
        Refused canonical names and why. Where the spec declares none, any name is accepted.
    """
    errors: dict[str, str] = {}
    for canonical, actual in given.items():
        if declared and canonical not in declared:
            names = ", ".join(shown(name) for name in islice(declared, _MOST_HINTS))
            errors[canonical] = f"is not declared by the model, which knows {names}"
        elif isinstance(actual, bool) or not isinstance(actual, str | int) or actual == "":
            errors[canonical] = "must be the name (or the number) that the data has for it"
        else:
            unfit = _unfit_for_json(actual) or _unfit_for_json(canonical)
            if unfit is not None:
                errors[canonical] = unfit
    return errors


class _Hints:
    """Nearest known names; bounded, since looking for them costs far more than refusing."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = list(known)
        self._left = _MOST_HINTS

    def for_name(self, name: str) -> str:
        if self._left == 0:
            return ""
        self._left -= 1
        nearest = nearest_names(name, self._known, cutoff=0.6)
        return "; did you mean " + " or ".join(map(repr, nearest)) + "?" if nearest else ""


def _unfit_for_json(value: object) -> str | None:
    """Say why a value cannot be stored as JSON in PostgreSQL, or ``None``; never recurses."""
    level = [value]
    for _ in range(MAX_DEPTH):
        for item in level:
            if isinstance(item, float) and not math.isfinite(item):
                return "must be a finite number"
            if isinstance(item, str) and ("\0" in item or not _encodes(item)):
                return "holds a character that cannot be stored (NUL or half a character)"
        level = [inner for item in level for inner in _children(item)]
        if not level:
            return None
    return f"is nested more than {MAX_DEPTH} deep"


def _children(item: object) -> Iterable[object]:
    if isinstance(item, Mapping):
        return (*item.keys(), *item.values())
    return item if isinstance(item, list | tuple) else ()


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
