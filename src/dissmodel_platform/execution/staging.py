"""Give a run its inputs as local files, whatever their addresses were."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dissmodel_platform.storage.media import media_type
from dissmodel_platform.storage.objects import ObjectStore
from dissmodel_platform.storage.remote import fetch_http
from dissmodel_platform.types import Sha256

SOURCE_FIELD = "input_dataset"

_LONGEST_NAME_BYTES = 200
_NEVER_WRITTEN = (0, 0)
"""Times (ns) of a cached file: one that a run has written to, against its mode, shows others."""


@dataclass(frozen=True)
class InputReference:
    """One input of a submission.

    Attributes
    ----------
    field : str
        Where the request names it: ``input_dataset``, or ``parameters.…`` (dotted path).
    uri : str
        Address as the request gives it.
    sha256 : Sha256 or None
        Content, where it is known before the file is read.
    """

    field: str
    uri: str
    sha256: Sha256 | None = None


@dataclass(frozen=True)
class StagedInput:
    """One input of a run, as a local file.

    Attributes
    ----------
    reference : InputReference
        What was asked for.
    path : Path
        The local copy, read-only.
    sha256 : Sha256
        Content that the run read.
    size_bytes : int
        Its size.
    """

    reference: InputReference
    path: Path
    sha256: Sha256
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the record's ``inputs``."""
        return {
            "name": self.reference.field,
            "uri": self.reference.uri,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "media_type": media_type(self.path.name),
        }


class Stager:
    """Copies inputs into a content-addressed cache and links them into runs.

    Parameters
    ----------
    store : ObjectStore
        Where uploaded inputs are, and where inputs from elsewhere are kept for reproduction.
    cache : Path
        Directory of this machine's copies; may be deleted at any time.
    max_bytes : int
        Largest file that is fetched from an ``http(s)`` address.
    allow_private : bool
        Whether such an address may be on the operator's own network.
    """

    def __init__(
        self, store: ObjectStore, cache: Path, *, max_bytes: int, allow_private: bool = False
    ) -> None:
        self._store = store
        self._cache = cache
        self._max_bytes = max_bytes
        self._allow_private = allow_private

    async def stage(self, reference: InputReference, directory: Path) -> StagedInput:
        """Put one input below ``directory``, under its own file name.

        Raises
        ------
        InvalidInput
            The file is not there any more, or is not the one that the checksum names.
        StorageError
            The object store broke off.
        """
        sha256 = reference.sha256 or await self._take_in(reference)
        cached = self._cached(sha256)
        if not await asyncio.to_thread(_is_intact, cached):
            await self._store.fetch(sha256, cached)
            await asyncio.to_thread(_seal, cached)
        path = directory / file_name(reference.uri)
        size_bytes = await asyncio.to_thread(_link, cached, path)
        return StagedInput(reference, path, sha256, size_bytes)

    async def _take_in(self, reference: InputReference) -> Sha256:
        """Read an input whose content is not known yet, and keep it for reproduction."""
        if urlsplit(reference.uri).scheme not in ("http", "https"):
            path = Path(reference.uri.removeprefix("file://"))
            return (await self._store.put_file(path)).sha256
        await asyncio.to_thread(self._cache.mkdir, parents=True, exist_ok=True)
        arriving = self._cache / f".{uuid.uuid4().hex}"
        try:
            await fetch_http(
                reference.uri,
                arriving,
                max_bytes=self._max_bytes,
                allow_private=self._allow_private,
            )
            return (await self._store.put_file(arriving)).sha256
        finally:
            arriving.unlink(missing_ok=True)

    def _cached(self, sha256: Sha256) -> Path:
        return self._cache / sha256[:2] / sha256


def file_name(uri: str) -> str:
    """Return the last part of an address, without a query, as the name of a local file."""
    path = urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri
    name = path.rstrip("/").rsplit("/", 1)[-1]
    while len(name.encode("utf-8", "replace")) > _LONGEST_NAME_BYTES:
        name = name[1:]  # the suffix says what the file is
    return "input" if name in ("", ".", "..") else name


def find_addresses(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, address) of each ``s3://`` or ``http(s)://`` text inside parameters."""
    yield from _walk("parameters", parameters)


def _walk(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if value.startswith(("s3://", "http://", "https://")):
            yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(f"{path}.{index}", inner)


def replace_addresses(value: Any, local: Callable[[str], str | None]) -> Any:
    """Return parameters with every known address replaced by its local path."""
    if isinstance(value, str):
        return local(value) or value
    if isinstance(value, Mapping):
        return {key: replace_addresses(inner, local) for key, inner in value.items()}
    if isinstance(value, list):
        return [replace_addresses(inner, local) for inner in value]
    return value


def _is_intact(cached: Path) -> bool:
    """Say whether a file is in the cache and nobody has written to it; make room for it if not."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        return cached.stat().st_mtime_ns == _NEVER_WRITTEN[1]
    except FileNotFoundError:
        return False


def _seal(cached: Path) -> None:
    cached.chmod(0o444)
    os.utime(cached, ns=_NEVER_WRITTEN)


def _link(cached: Path, path: Path) -> int:
    """Link a cached file into a run, read-only; copy where the file system cannot link.

    Returns
    -------
    int
        Size of the file, in bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.hardlink_to(cached)
    except OSError:
        shutil.copyfile(cached, path)
        path.chmod(0o444)
    return path.stat().st_size
