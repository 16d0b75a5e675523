"""Which texts of a request name an input, and how its local copy is named in their place.

A text names an input when it begins with ``s3://``, ``http(s)://`` or ``file://`` (in any case),
when it is an absolute path, and when it is a path of GDAL's virtual file systems around one of
these (https://gdal.org/user/virtual_file_systems.html): ``/vsizip/s3://…/grid.zip/cells.shp``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ADDRESS = re.compile(r"(?:s3|https?|file)://", re.IGNORECASE)
_ARCHIVE = re.compile(r"/vsi(?:zip|tar|gzip|7z|rar)/", re.IGNORECASE)
_REMOTE = re.compile(r"/vsi(?:curl|s3)(?:_streaming)?/", re.IGNORECASE)
_CHAINED = re.compile(r"\A(?=vsi[a-z0-9]+/)", re.IGNORECASE)  # /vsizip/vsicurl/… is fine as well
_MEMORY = "/vsimem/"
# Where GDAL lets an archive's own name end (port/cpl_vsil_abstract_archive.cpp), compressed files
# without an inside last.
_ARCHIVE_END = re.compile(
    r"\.(?:zip|kmz|dwf|ods|xlsx|xlsm|tar|tgz|tar\.gz|7z|lpk|lpkx|mpk|mpkx|ppkx|rar|gz)(?=/|$)",
    re.IGNORECASE,
)
_LONGEST_PATH = 4096  # PATH_MAX: what is longer is no path


@dataclass(frozen=True)
class Mention:
    """An input's address inside a text.

    Attributes
    ----------
    before, after : str
        What stands around it.
    address : str
        ``s3://…``, ``http(s)://…``, ``file://…`` (in lower case) or an absolute path.
    """

    before: str
    address: str
    after: str

    def replaced(self, local: str) -> str:
        """Return the text with a local path in place of the address."""
        return f"{self.before}{local}{self.after}"


def find_mention(text: str) -> Mention | None:
    """Find the input that a text names; ``None`` where it names none."""
    if len(text) > _LONGEST_PATH and not _ADDRESS.match(text):
        return None
    before, rest, after = "", text, ""
    is_bounded = True  # whether it is known where the address ends
    while archive := _ARCHIVE.match(rest):
        before += archive[0]
        rest = _CHAINED.sub("/", rest[archive.end() :], count=1)
        is_bounded = rest.startswith("{") and "}" in rest  # GDAL's way to say where the name ends
        if is_bounded:
            rest, _, inside = rest[1:].rpartition("}")
            before, after = before + "{", "}" + inside + after
    if not is_bounded and (end := _ARCHIVE_END.search(rest)):
        rest, after = rest[: end.end()], rest[end.end() :] + after
    if remote := _REMOTE.match(rest):  # a local file is read without that file system
        inner = rest[remote.end() :]
        inner = f"s3://{inner}" if "s3" in remote[0].lower() else inner
        rest = inner if _ADDRESS.match(inner) else rest
    if scheme := _ADDRESS.match(rest):
        return Mention(before, scheme[0].lower() + rest[scheme.end() :], after)
    is_path = rest.startswith("/") and not rest.startswith(_MEMORY)
    # "/" alone is a separator
    return Mention(before, rest, after) if is_path and rest.strip("/") else None


def find_mentions(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Mention]]:
    """Yield (dotted path, mention) of each input that is named inside parameters."""
    yield from _walk("parameters", parameters)


def _walk(path: str, value: Any) -> Iterator[tuple[str, Mention]]:
    if isinstance(value, str):
        mention = find_mention(value)
        if mention is not None:
            yield path, mention
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(f"{path}.{index}", inner)


def replace_mentions(value: Any, local: Callable[[str], str | None]) -> Any:
    """Return parameters with every known address replaced by its local path."""
    if isinstance(value, str):
        mention = find_mention(value)
        path = local(mention.address) if mention is not None else None
        return value if mention is None or path is None else mention.replaced(path)
    if isinstance(value, Mapping):
        return {key: replace_mentions(inner, local) for key, inner in value.items()}
    if isinstance(value, list):
        return [replace_mentions(inner, local) for inner in value]
    return value
