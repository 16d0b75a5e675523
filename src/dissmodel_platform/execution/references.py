"""What a submission says of its inputs, and what a run got for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dissmodel_platform.storage.media import media_type
from dissmodel_platform.storage.uris import is_web
from dissmodel_platform.types import Sha256

SOURCE_FIELD = "input_dataset"

_LONGEST_NAME_BYTES = 200


@dataclass(frozen=True)
class SideFile:
    """A file that belongs to an input, such as the ``.dbf`` of a ``.shp``, of known content."""

    suffix: str
    uri: str
    sha256: Sha256


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
        Content, where it is known before the file is read; it then comes from the object store.
    expected_sha256 : Sha256 or None
        Content that the request says the file has.
    side_files : tuple of SideFile
        Its side files, where its content is known; else they are looked for beside it.
    """

    field: str
    uri: str
    sha256: Sha256 | None = None
    expected_sha256: Sha256 | None = None
    side_files: tuple[SideFile, ...] = ()

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> InputReference:
        """Read an entry of a submission's ``inputs``."""
        return cls(
            entry["field"],
            entry["uri"],
            entry.get("sha256"),
            entry.get("expected_sha256"),
            tuple(SideFile(**side) for side in entry.get("side_files", ())),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the entry of a submission's ``inputs``."""
        entry: dict[str, Any] = {"field": self.field, "uri": self.uri, "sha256": self.sha256}
        if self.expected_sha256 is not None:
            entry["expected_sha256"] = self.expected_sha256
        if self.side_files:
            entry["side_files"] = [asdict(side) for side in self.side_files]
        return entry


@dataclass(frozen=True)
class StagedInput:
    """One file that a run reads.

    Attributes
    ----------
    field : str
        Where the request names it; of a side file, that and its suffix.
    uri : str
        Where it came from.
    path : Path
        The local copy, read-only.
    sha256 : Sha256
        Content that the run read.
    size_bytes : int
        Its size.
    side_file_of : str or None
        Field of the input that this file belongs to.
    """

    field: str
    uri: str
    path: Path
    sha256: Sha256
    size_bytes: int
    side_file_of: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the record's ``inputs``."""
        entry = {
            "name": self.field,
            "uri": self.uri,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "media_type": media_type(self.path.name),
        }
        return entry if self.side_file_of is None else {**entry, "side_file_of": self.side_file_of}


def as_read(asked: InputReference, read: list[Mapping[str, Any]]) -> InputReference:
    """Return a reference to exactly what a run read for another one.

    Parameters
    ----------
    asked : InputReference
        From the run's submission.
    read : list of mapping
        The record's ``inputs``.
    """
    main = next(entry for entry in read if entry["name"] == asked.field)
    sides = [entry for entry in read if entry.get("side_file_of") == asked.field]
    return InputReference(
        asked.field,
        asked.uri,
        main["sha256"],
        side_files=tuple(
            SideFile(side["name"].removeprefix(asked.field), side["uri"], side["sha256"])
            for side in sides
        ),
    )


def file_name(uri: str) -> str:
    """Return the last part of an address, without a query, as the name of a local file."""
    path = urlsplit(uri).path if is_web(uri) else uri
    name = path.rstrip("/").rsplit("/", 1)[-1]
    while len(name.encode("utf-8", "replace")) > _LONGEST_NAME_BYTES:
        name = name[1:]  # the suffix says what the file is
    return "input" if name in ("", ".", "..") else name


def wrong_content(uri: str, found: Sha256, expected: Sha256) -> str:
    """Say that an input is not the one that the request's checksum names."""
    return (
        f"The input {uri} has the SHA-256 {found}, not {expected} as the request says; see "
        f"whether the file or the checksum is the wrong one, and submit again."
    )
