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


def storable_json(value: Any) -> Any:
    """Return JSON data whose texts are storable; numbers that are not finite become ``None``."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {storable_text(str(key)): storable_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(inner) for inner in value]
    return value
