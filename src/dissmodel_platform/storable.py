"""Text and JSON as PostgreSQL can hold them, made of what models and tools print."""

from __future__ import annotations

import math
import re
from typing import Any

# Sequences that steer a terminal (ECMA-48): colours, titles, the cursor.
_STEERING = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|(?=\n)|\Z)"
    r"|\x1b[ -/]*[0-~]"
)


def storable_text(text: str) -> str:
    """Return a text without NUL and half characters (lone surrogates)."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return whole.replace("\0", "\N{SYMBOL FOR NULL}")


def printable_text(text: str) -> str:
    """Return a text that can be stored and shown: no control characters but line ends and tabs."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for character in _STEERING.sub("", text)
    )


def storable_json(value: Any, *, deepest: int | None = None) -> Any:
    """Return JSON data whose texts are storable; numbers that are not finite become ``None``.

    Parameters
    ----------
    value : object
        Parsed JSON.
    deepest : int, optional
        Lists and objects that may lie within one another.

    Raises
    ------
    ValueError
        More do.
    """
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not isinstance(value, dict | list | tuple):
        return value
    if deepest is not None:
        deepest -= 1
        if deepest < 0:
            raise ValueError("it is nested too deep")
    if isinstance(value, dict):
        return {
            storable_text(str(key)): storable_json(inner, deepest=deepest)
            for key, inner in value.items()
        }
    return [storable_json(inner, deepest=deepest) for inner in value]
