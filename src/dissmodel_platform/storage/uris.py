"""Logical URIs: the public names of inputs and outputs, whatever holds the bytes.

``s3://dissmodel-inputs/inputs/<label>/<file name>`` and
``s3://dissmodel-outputs/experiments/<experiment id>/<name>`` stay the names that clients see and
records keep, also when the bytes lie in a directory. No part of a logical URI is ever used as a
path in the object store; file names do become local names when a run is staged, so everything that
could leave a directory or deceive a reader is refused here, once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.types import ExperimentId

INPUTS_BUCKET = "dissmodel-inputs"
OUTPUTS_BUCKET = "dissmodel-outputs"
LOGICAL_BUCKETS = frozenset({INPUTS_BUCKET, OUTPUTS_BUCKET})

MAX_NAME_BYTES = 255
"""Longest name of one file in UTF-8, as on Linux file systems (``NAME_MAX``)."""

MAX_KEY_BYTES = 1024
"""Longest key in UTF-8, as in S3 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html)."""

_SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_EXPERIMENT = re.compile(r"[0-9a-f]{32}", re.ASCII)

# Cc: control characters; Cs: lone surrogates; Zl, Zp: line and paragraph separators. The marks that
# change the direction of writing make a name read as another one; joiners (also Cf) are needed by
# several scripts and stay allowed.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REFUSED_DIRECTIONS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


@dataclass(frozen=True, slots=True)
class LogicalUri:
    """Address of one file: a bucket and a key of non-empty, harmless segments.

    Parameters
    ----------
    bucket : str
        Bucket name in S3's alphabet.
    key : str
        Segments joined by ``/``; no segment is empty, ``.`` or ``..``.

    Raises
    ------
    InvalidInput
        The bucket or the key is not one; so every instance is safe to print and to split.
    """

    bucket: str
    key: str

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket):
            raise InvalidInput(
                f"{_shown(self.bucket)} is not a bucket name: use 3 to 63 lower-case letters, "
                "digits, dots and hyphens."
            )
        for segment in self.key.split("/"):
            check_name(segment, "part of the URI")
        if len(self.key.encode()) > MAX_KEY_BYTES:
            raise InvalidInput(
                f"The URI is too long: keep what follows the bucket within {MAX_KEY_BYTES} bytes."
            )

    @classmethod
    def parse(cls, text: str, buckets: Collection[str] = LOGICAL_BUCKETS) -> Self:
        """Read ``s3://<bucket>/<key>``; the text is taken as it is, without percent-decoding.

        Parameters
        ----------
        text : str
            What a client sent.
        buckets : collection of str, optional
            Buckets that may be named; the two logical ones by default.

        Raises
        ------
        InvalidInput
            Another scheme, another bucket, or a key that is not one.
        """
        if not text.startswith(_SCHEME):
            raise InvalidInput(
                f"{_shown(text)} is not an address of this platform: it must start with "
                f"{_SCHEME}{INPUTS_BUCKET}/ or {_SCHEME}{OUTPUTS_BUCKET}/."
            )
        bucket, slash, key = text.removeprefix(_SCHEME).partition("/")
        if bucket not in buckets:
            raise InvalidInput(
                f"The bucket {_shown(bucket)} is not served here; the known ones are "
                f"{', '.join(sorted(buckets))}."
            )
        if not slash or not key:
            raise InvalidInput(f"{_shown(text)} names a bucket but no file in it.")
        return cls(bucket, key)

    @property
    def name(self) -> str:
        """The last segment: the file's name."""
        return self.key.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.key}"


def input_uri(label: str, file_name: str) -> LogicalUri:
    """Name an uploaded file.

    Parameters
    ----------
    label : str
        What the uploader calls the group that the file belongs to; one segment.
    file_name : str
        The file's name, not a path. It is kept in Unicode's composed form (NFC), so that the same
        name typed on Linux and on macOS is the same input.

    Raises
    ------
    InvalidInput
        One of the two is a path, empty, too long or holds control characters; names the field.
    """
    label, file_name = (unicodedata.normalize("NFC", text) for text in (label, file_name))
    check_name(label, "label", field="label")
    check_name(file_name, "file name", field="file")
    return LogicalUri(INPUTS_BUCKET, f"inputs/{label}/{file_name}")


def output_uri(experiment_id: ExperimentId, name: str) -> LogicalUri:
    """Name a file that an experiment wrote.

    Parameters
    ----------
    experiment_id : ExperimentId
        32 lower-case hexadecimal digits.
    name : str
        The artifact's name; ``/`` separates directories, for outputs that are directories.

    Raises
    ------
    InvalidInput
        The id is not one, or the name leaves the experiment's own directory.
    """
    if not _EXPERIMENT.fullmatch(experiment_id):
        raise InvalidInput(f"{_shown(experiment_id)} is not an experiment id (32 hex digits).")
    for segment in name.split("/"):
        check_name(segment, "output name")
    return LogicalUri(OUTPUTS_BUCKET, f"experiments/{experiment_id}/{name}")


def is_web(uri: str) -> bool:
    """Whether an address is ``http(s)://…``."""
    return uri.startswith(("http://", "https://"))


def local_path(uri: str) -> Path | None:
    """Return the path of this machine that an address names; ``None`` for one elsewhere."""
    path = uri.removeprefix("file://")
    return Path(path) if path != uri or uri.startswith("/") else None


def check_name(name: str, what: str = "name", field: str | None = None) -> None:
    """Refuse a name that is a path, is invisible, or does not fit a file system.

    Parameters
    ----------
    name : str
        The proposed name; letters of any script and inner spaces are fine.
    what : str, optional
        What the name is, for the sentence.
    field : str, optional
        The field of the request that the name came in.

    Raises
    ------
    InvalidInput
        With a sentence that says what to change.
    """
    fault = _fault(name)
    if fault is not None:
        raise InvalidInput(f"The {what} {_shown(name)} {fault}", {field: fault} if field else None)


def _fault(name: str) -> str | None:
    if not name:
        return "is empty: give it at least one character, and write no two slashes in a row."
    if name in {".", ".."} or "/" in name or "\\" in name:
        return "is a path: give a plain name without slashes, '.' and '..'."
    if any(
        unicodedata.category(character) in _REFUSED_CATEGORIES
        or unicodedata.bidirectional(character) in _REFUSED_DIRECTIONS
        for character in name
    ):
        return "holds invisible control characters: remove them."
    if name != name.strip():
        return "starts or ends with a space: remove it."
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is too long: keep it within {MAX_NAME_BYTES} bytes."
    return None


def _shown(text: str, limit: int = 100) -> str:
    return repr(text) if len(text) <= limit else repr(text[:limit]) + "…"
