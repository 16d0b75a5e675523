"""One linear look at a TOML text: is it small enough to parse, and on which line is which key.

The scan knows strings and comments and nothing else of the grammar. It and ``tomllib`` agree on
where those lie up to the first thing that ``tomllib`` refuses, and ``tomllib`` stops there; so
nothing that the scan did not count is ever parsed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_DEPTH = 32
"""Levels of nesting: parts of one dotted key, open brackets, and the document as a whole."""

MAX_KEYS = 20_000
"""Keys (each part of a dotted one counts), tables and lists in one document."""

# A string or comment is one token, also one that never ends (the parser stops there), so that no
# part of the text is looked at twice. Possessive repeats (`++`) never step back.
_TOKEN = re.compile(
    r'''
      """ (?: [^"\\]++ | \\. | "(?!"") )*+ (?: "{3,5} | \\?\Z )
    | \'\'\' (?: [^']++ | '(?!'') )*+ (?: '{3,5} | \Z )
    | " (?: [^"\\\n]++ | \\[^\n] )*+ \\? "?
    | ' [^'\n]*+ '?
    | \# [^\n]*+
    | ( [][{}=,.\n] )
    ''',
    re.VERBOSE | re.DOTALL,
)
_KEY_PART = re.compile(r"""\s*(?:"([^"\\\n]*)"|'([^'\n]*)'|([A-Za-z0-9_-]+))\s*(?:\.|\Z)""")


class Excess(NamedTuple):
    """The first place where a text goes beyond a bound."""

    code: str
    message: str
    offset: int


def find_excess(text: str) -> Excess | None:
    """Find what would make the standard parser slow or greedy.

    After ``None``, callers can assume that ``tomllib.loads`` takes under 1 s and 100 MB for a
    text of up to 256 kB whose line ends are plain newlines.
    """
    depth = dots = keys = 0
    in_value = False
    for token in _TOKEN.finditer(text):
        mark = token[1]
        if mark is None:
            continue
        if mark == ".":
            dots += 1
        elif mark in "[{":
            depth += 1
            dots = 0
        elif mark == ",":
            dots = 0
        elif mark == "=":
            keys += dots + 1
            dots = 0
            in_value = True
        elif mark == "\n":
            dots = 0
            if depth == 0 or not in_value:
                depth, in_value = 0, False
        else:  # the end of a list, a table or a header; in a list, dots belong to numbers
            keys += 1 if in_value else dots + 1
            dots = 0
            depth = max(depth - 1, 0)
        if dots >= MAX_DEPTH or depth > MAX_DEPTH:
            message = f"Keys or brackets are nested more than {MAX_DEPTH} deep; flatten the data."
            return Excess("too-deep", message, token.start())
        if keys > MAX_KEYS:
            message = f"The file has more than {MAX_KEYS} keys, tables and lists; move data out."
            return Excess("too-many-keys", message, token.start())
    return None


def key_offsets(text: str) -> dict[tuple[str, ...], int]:
    """Offset of each statement's key and of each table header, by the names that lead to it.

    Where a name repeats (as in a list of tables) the first one counts. Keys with escapes in them
    and keys inside inline tables have no entry.
    """
    offsets: dict[tuple[str, ...], int] = {}
    header: tuple[str, ...] = ()
    depth = start = 0
    in_value = False
    for token in _TOKEN.finditer(text):
        mark = token[1]
        if mark is None:
            continue
        if mark == "\n" and (depth == 0 or not in_value):
            depth, start, in_value = 0, token.end(), False
        elif mark == "=" and depth == 0 and not in_value:
            in_value = True
            key = header + _split_key(text[start : token.start()])
            offsets.setdefault(key, _after_blanks(text, start))
        elif mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
            if depth == 0 and not in_value:
                header = _split_key(text[start : token.start()].strip().strip("[]"))
                offsets.setdefault(header, _after_blanks(text, start))
    return offsets


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Place of an offset, both counted from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _split_key(raw: str) -> tuple[str, ...]:
    return tuple(basic or literal or bare for basic, literal, bare in _KEY_PART.findall(raw))


def _after_blanks(text: str, start: int) -> int:
    while text[start : start + 1] in (" ", "\t"):
        start += 1
    return start
