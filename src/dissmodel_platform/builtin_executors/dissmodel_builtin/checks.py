"""Parameters of a record, checked one by one; what is wrong is said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def whole_number(parameters: Mapping[str, Any], name: str, default: int, minimum: int) -> int:
    """Return a parameter as an integer; a float without a fraction, as JSON may bring, is one.

    Raises
    ------
    ValueError
        When it is anything else, or less than ``minimum``.

    """
    value = parameters.get(name, default)
    if not _is_number(value) or not minimum <= value < 2**63 or value != int(value):
        raise ValueError(f"{name} is {value!r}; it must be a whole number, {minimum} or more.")
    return int(value)


def fraction(parameters: Mapping[str, Any], name: str, default: float) -> float:
    """Return a parameter as a float between 0 and 1, both included.

    Raises
    ------
    ValueError
        When it is anything else.

    """
    value = parameters.get(name, default)
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; it must be a number from 0 to 1.")
    return float(value)


def text(parameters: Mapping[str, Any], name: str, default: str) -> str:
    """Return a parameter as a string.

    Raises
    ------
    ValueError
        When it is anything else.

    """
    value = parameters.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; it must be text.")  # noqa: TRY004 - data, not code
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
