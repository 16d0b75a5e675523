"""Text and JSON as PostgreSQL can hold them, made of what models and tools print."""

from __future__ import annotations

import math
from typing import Any


def storable_text(text: str) -> str:
    """Return a text without NUL and half characters (lone surrogates)."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return whole.replace("\0", "\N{SYMBOL FOR NULL}")


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
