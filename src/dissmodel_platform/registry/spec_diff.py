"""Which keys of a changed spec differ: few and short, for people, whatever a file holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

MOST_KEYS = 100
"""Keys that are told of one changed model."""

MOST_CHARACTERS = 200
"""Longest key that is told, in characters; a longer one ends in an ellipsis."""

_NOTHING: Mapping[str, Any] = {}


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Compare two versions of a spec; arrays are values.

    Takes no more memory than its answer, also where a table's name is as long as the file.

    Returns
    -------
    list of str
        Dotted keys that were added, removed or have another value, sorted table by table; at most
        ``MOST_KEYS``.
    """
    return list(islice(_differences(before, after, ""), MOST_KEYS))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        if key in before and key in after and before[key] == after[key]:
            continue
        old, new = _table(before, key), _table(after, key)
        name = _cut(prefix + _cut(key))
        is_value = (key in before and old is None) or (key in after and new is None)
        if is_value or not (old or new):
            yield name
        if old or new:
            yield from _differences(old or _NOTHING, new or _NOTHING, f"{name}.")


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    value = document.get(key)
    return value if isinstance(value, Mapping) else None


def _cut(name: str) -> str:
    return name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1]}…"
