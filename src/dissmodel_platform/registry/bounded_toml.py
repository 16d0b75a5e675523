"""TOML from strangers: bounded before the standard parser sees it, plain JSON data afterwards.

``tomllib`` is quadratic in the parts of a dotted key (8 s and 2.3 GB for one key of 40 kB), needs
over a kilobyte for each part of a table header, recurses once per bracket, and accepts what JSON
and PostgreSQL cannot hold (``nan``, ``inf``, NUL characters, integers of any size).
"""

from __future__ import annotations

import datetime as dt
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dissmodel_platform.registry.problems import shown
from dissmodel_platform.registry.toml_bounds import (
    MAX_DEPTH,
    find_excess,
    key_offsets,
    line_and_column,
)

MAX_BYTES = 256 * 1024
"""Largest file that is read, in bytes; an ordinary spec has one to four thousand."""

_MAX_MESSAGE = 240
_INTEGERS = range(-(2**63), 2**63)
_MANY_DIGITS = re.compile(r"[0-9][0-9_]{1000,}+")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z")

KeyPath = tuple[str | int, ...]
"""Where a value stands: the keys (and, in lists, the positions) that lead to it."""


@dataclass(frozen=True)
class TomlFault:
    """Why a text is not accepted; ``code`` is a stable slug, ``message`` a sentence."""

    code: str
    message: str
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True)
class TomlDocument:
    """An accepted text as JSON data.

    Parameters
    ----------
    text : str
        The source, its line ends made uniform.
    table : dict
        The whole document: strings, numbers, booleans, lists and tables; dates and times as
        strings in ISO 8601.
    """

    text: str
    table: dict[str, object] = field(repr=False)

    @cached_property
    def _offsets(self) -> Mapping[tuple[str, ...], int]:
        return key_offsets(self.text)

    def place_of(self, path: KeyPath) -> tuple[int | None, int | None]:
        """Line and column (from 1) of the key, or of the nearest table around it that has one."""
        names = tuple(part for part in path if isinstance(part, str))
        for length in range(len(names), 0, -1):
            offset = self._offsets.get(names[:length])
            if offset is not None:
                return line_and_column(self.text, offset)
        return None, None


def read_toml(source: bytes | str) -> TomlDocument | TomlFault:
    """Read TOML that nobody vouches for.

    Never raises, and takes under 1 s and 150 MB for any input.

    Parameters
    ----------
    source : bytes or str
        The file's bytes (UTF-8), or text from a request.

    Returns
    -------
    TomlDocument or TomlFault
        After a document, callers can assume that it encodes as UTF-8 JSON, is at most
        ``MAX_DEPTH`` levels deep and holds no NUL, no ``nan`` and no infinity.
    """
    try:
        text = _decode(source).replace("\r\n", "\n")
        document = TomlDocument(text, _parse(text))
        try:
            return TomlDocument(text, _json_table(document.table, ()))
        except _UnfitError as unfit:
            raise _RefusedError(unfit.code, unfit.message, document.place_of(unfit.path)) from unfit
    except _RefusedError as refused:
        return refused.fault


class _RefusedError(Exception):
    def __init__(
        self, code: str, message: str, place: tuple[int | None, int | None] = (None, None)
    ) -> None:
        super().__init__(message)
        self.fault = TomlFault(code, message, *place)


class _UnfitError(Exception):
    def __init__(self, path: KeyPath, code: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.code = code
        self.message = message


def _decode(source: bytes | str) -> str:
    if len(source) > MAX_BYTES:
        raise _too_large()
    try:
        raw = source.encode("utf-8") if isinstance(source, str) else source
    except UnicodeEncodeError as error:
        message = "The text holds half a character (a lone surrogate); send valid Unicode."
        raise _RefusedError("not-utf8", message) from error
    if len(raw) > MAX_BYTES:
        raise _too_large()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        message = "The file is not UTF-8 text; save it as UTF-8."
        raise _RefusedError("not-utf8", message, _end(raw[: error.start].decode())) from error
    if text.startswith("\ufeff"):
        message = "The file starts with a byte order mark; save it as UTF-8 without one."
        raise _RefusedError("byte-order-mark", message, (1, 1))
    before, nul, _ = text.partition("\0")
    if nul:
        message = "The file holds a NUL character; remove it."
        raise _RefusedError("nul-character", message, _end(before))
    return text


def _too_large() -> _RefusedError:
    message = f"The file is larger than {MAX_BYTES // 1024} kB; keep data out of the spec."
    return _RefusedError("too-large", message)


def _parse(text: str) -> dict[str, object]:
    excess = find_excess(text)
    if excess is not None:
        raise _RefusedError(excess.code, excess.message, line_and_column(text, excess.offset))
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(text, str(error)) from error
    except RecursionError as error:
        message = "Brackets are nested too deep to be read; flatten the data."
        raise _RefusedError("too-deep", message) from error
    except ValueError as error:  # an integer of more digits than Python converts
        digits = _MANY_DIGITS.search(text)
        raise _RefusedError(
            "number-out-of-range",
            "A number has more digits than 64 bits can hold.",
            line_and_column(text, digits.start()) if digits else (None, None),
        ) from error


def _syntax_error(text: str, message: str) -> _RefusedError:
    place: tuple[int | None, int | None] = (None, None)
    found = _PLACE.search(message)
    if found is not None:
        message = message[: found.start()]
        place = (int(found[1]), int(found[2])) if found[1] else _end(text)
    if len(message) > _MAX_MESSAGE:
        message = message[:_MAX_MESSAGE] + "…"
    return _RefusedError("invalid-toml", f"This is not valid TOML: {message}.", place)


def _json_table(table: Mapping[str, object], path: KeyPath) -> dict[str, object]:
    _check_depth(path)
    for key in table:
        if "\0" in key:
            raise _UnfitError(path, "nul-character", f"The key {shown(key)} holds a NUL character.")
    return {key: _json_value(value, (*path, key)) for key, value in table.items()}


def _json_value(value: object, path: KeyPath) -> object:
    match value:
        case dict():
            return _json_table(value, path)
        case list():
            _check_depth(path)
            return [_json_value(item, (*path, index)) for index, item in enumerate(value)]
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case str() if "\0" in value:
            message = f"{_dotted(path)} holds a NUL character."
            raise _UnfitError(path, "nul-character", message)
        case int() if value not in _INTEGERS:
            message = f"{_dotted(path)} does not fit into 64 bits."
            raise _UnfitError(path, "number-out-of-range", message)
        case float() if not math.isfinite(value):
            message = f"{_dotted(path)} is no finite number; JSON has neither nan nor infinity."
            raise _UnfitError(path, "number-not-finite", message)
    return value


def _check_depth(path: KeyPath) -> None:
    if len(path) >= MAX_DEPTH:
        message = f"Data is nested more than {MAX_DEPTH} deep; flatten it."
        raise _UnfitError(path, "too-deep", message)


def _dotted(path: KeyPath) -> str:
    return shown(".".join(str(part) for part in path))


def _end(text: str) -> tuple[int, int]:
    return line_and_column(text, len(text))
