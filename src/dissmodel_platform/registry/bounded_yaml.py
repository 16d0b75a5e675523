"""YAML from strangers: plain JSON data, converted value by value so that a bad one stands alone.

PyYAML reads numbers to the base of 60 in a time that grows with the square of their length, makes
integers that nothing can print or store, and takes for granted that a value fits its tag.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import yaml

from dissmodel_platform.registry.problems import shown
from dissmodel_platform.storable import storable_text

_MAX_DEPTH = 20
_MAX_NODES = 20_000
_MAX_MESSAGE = 240
_LONGEST_NUMBER = 100
_INTEGERS = range(-(2**63), 2**63)

_INTEGER_TAG = "tag:yaml.org,2002:int"
_FLOAT_TAG = "tag:yaml.org,2002:float"
# As in PyYAML's resolver, without the numbers to the base of 60 (YAML 1.2 dropped them too).
_INTEGER_FORM = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)\Z")
_FLOAT_FORM = re.compile(
    r"""[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?
    |\.(?:inf|Inf|INF))\Z|\.(?:nan|NaN|NAN)\Z""",
    re.VERBOSE,
)

# What PyYAML's constructors raise where a value does not fit its tag.
_CONVERSION_ERRORS = (
    ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError,
)  # fmt: skip


class YamlRefused(Exception):
    """Why a text, or one value of it, is not accepted.

    Parameters
    ----------
    code : str
        Stable slug.
    message : str
        A sentence.
    mark : yaml.Mark, optional
        Where; ``line`` and ``column`` count from 1.
    """

    def __init__(self, code: str, message: str, mark: yaml.Mark | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.line = None if mark is None else mark.line + 1
        self.column = None if mark is None else mark.column + 1


@dataclass(frozen=True)
class YamlValue:
    """A value as it stands in the text, converted when it is asked for."""

    _node: yaml.Node
    _loader: _Loader

    @property
    def line(self) -> int:
        """Line on which the value begins, from 1."""
        line: int = self._node.start_mark.line
        return line + 1

    @property
    def column(self) -> int:
        """Column at which the value begins, from 1."""
        column: int = self._node.start_mark.column
        return column + 1

    def entries(self) -> list[tuple[str, YamlValue]] | None:
        """Return the keys as they are written, with their values; ``None``: this is no mapping.

        A key may be there twice; one that is no word is ``?``.
        """
        if not isinstance(self._node, yaml.MappingNode):
            return None
        return [
            (
                key.value if isinstance(key, yaml.ScalarNode) else "?",
                YamlValue(value, self._loader),
            )
            for key, value in self._node.value
        ]

    def plain(self) -> object:
        """Return the value as JSON data; dates become ISO 8601.

        After this, callers can assume that it encodes as UTF-8 JSON and that PostgreSQL can hold
        it: no NUL, no ``nan`` and no infinity, integers of 64 bits.

        Raises
        ------
        YamlRefused
            It is none.
        """
        try:
            return _plain(self._loader.construct_document(self._node))
        except _Unfit as error:
            raise YamlRefused("invalid-value", f"{error}; write text.", self._mark) from error
        except yaml.MarkedYAMLError as error:
            raise _refusal("invalid-value", "", error) from error
        except _CONVERSION_ERRORS as error:
            message = f"A value does not fit its tag: {str(error)[:_MAX_MESSAGE]}."
            raise YamlRefused("invalid-value", message, self._mark) from error

    @property
    def _mark(self) -> yaml.Mark:
        mark: yaml.Mark = self._node.start_mark
        return mark


def read_yaml(content: bytes, *, max_bytes: int) -> YamlValue | None:
    """Read YAML that nobody vouches for; ``None``: the text is empty.

    Takes time and memory in proportion to the text.

    Raises
    ------
    YamlRefused
        The text as a whole cannot be read: too large, nested too deep, an alias, no YAML.
    """
    try:
        loader = _Loader(_decode(content, max_bytes))
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _refusal("invalid-yaml", "The text is no YAML: ", error) from error
    except (yaml.YAMLError, *_CONVERSION_ERRORS) as error:
        what = " ".join(str(error).split())[:_MAX_MESSAGE]
        raise YamlRefused("invalid-yaml", f"The text is no YAML: {what}.") from error
    return None if node is None else YamlValue(node, loader)


def _decode(content: bytes, max_bytes: int) -> str:
    if len(content) > max_bytes:
        raise YamlRefused("too-large", f"The file is larger than {max_bytes // 1024} kB.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise YamlRefused("not-utf8", "The file is not UTF-8 text; save it as such.") from error


def _refusal(code: str, introduction: str, error: yaml.MarkedYAMLError) -> YamlRefused:
    what = " ".join(str(error.problem or error.context).split())[:_MAX_MESSAGE]
    return YamlRefused(code, f"{introduction}{what}.", error.problem_mark)


class _Unfit(ValueError):
    """A value that JSON or PostgreSQL cannot hold."""


class _Loader(yaml.SafeLoader):
    """Plain data only: no aliases (they multiply), no duplicate keys, bounded nesting."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise YamlRefused("yaml-alias", "Aliases (*name) are not read; write it out.", mark)
        self._depth += 1
        self._nodes += 1
        if self._depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise YamlRefused("too-complex", "The file is nested too deeply or too large.", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if not isinstance(key_node, yaml.ScalarNode) or key in seen:
                text = "A key must be one word, and may stand once in its mapping."
                raise YamlRefused("invalid-key", text, key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Convert a number, unless it is longer than any that 64 bits hold."""
        text = self.construct_scalar(node)
        if len(text) > _LONGEST_NUMBER or ":" in text:
            raise _Unfit(f"The number {shown(text)} does not fit into 64 bits")
        if node.tag == _INTEGER_TAG:
            return self.construct_yaml_int(node)
        return self.construct_yaml_float(node)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in (_INTEGER_TAG, _FLOAT_TAG)]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INTEGER_TAG, _INTEGER_FORM, list("-+0123456789"))
_Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT_FORM, list("-+0123456789."))
for _tag in (_INTEGER_TAG, _FLOAT_TAG):
    _Loader.add_constructor(_tag, _Loader.construct_number)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int) and value not in _INTEGERS:
        raise _Unfit(f"The number {shown(str(value))} does not fit into 64 bits")
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _Unfit(f"{shown(repr(value))} cannot be held in JSON")


def _text(text: str) -> str:
    if storable_text(text) != text:
        raise _Unfit(f"{shown(text)} holds a character that cannot be stored (NUL or half of one)")
    return text
