"""Seals on installations: whether their files are still those that were put there.

An installation is sealed when it is finished. A record of its files lies in it, and its marker
holds the SHA-256 of that record. What Python and Matplotlib leave behind when a package is used
(``__pycache__``, font lists) is no damage.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG
from typing import Any
from uuid import uuid4

from packaging.utils import canonicalize_name

MARKER = "platform.json"
"""The file that makes a directory an installation; written last."""

RECORD = "files.json"
"""The record of files beside it."""

_UNRECORDED = {MARKER, RECORD, "matplotlib"}
_CACHE = "__pycache__"

Fingerprint = tuple[object, ...]


def seal(
    directory: Path, content: Mapping[str, Any], *, place: Path | None = None
) -> dict[str, Any]:
    """Record the files of a finished installation and write its marker.

    Parameters
    ----------
    directory : Path
        The installation.
    content : mapping
        What the marker shall say; with ``grows``, further files are no damage.
    place : Path, optional
        Where it will be whole, as its files name one another by where they are; by default where
        it is.

    Returns
    -------
    dict
        The marker: with ``files``, the SHA-256 of the record, and ``build``, a name of its own.
    """
    text = json.dumps(_scan(directory), separators=(",", ":")).encode()
    (directory / RECORD).write_bytes(text)
    marker = {
        **content,
        "place": str((place or directory).resolve()),
        "files": hashlib.sha256(text).hexdigest(),
        "build": uuid4().hex,
    }
    (directory / MARKER).write_text(json.dumps(marker, indent=1))
    return marker


def read_marker(directory: Path) -> dict[str, Any] | None:
    """Return what the marker of an installation says; ``None`` where it is none."""
    try:
        marker = json.loads((directory / MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def damage(directory: Path) -> list[str]:
    """Look at all files of an installation; returns the paths that are not as recorded.

    Where marker and record do not fit each other, or the marker is that of an installation in
    another place, these are named.
    """
    marker = read_marker(directory)
    if marker is None or marker.get("place") != str(directory.resolve()):
        return [MARKER]
    try:
        text = (directory / RECORD).read_bytes()
    except OSError:
        return [RECORD]
    if hashlib.sha256(text).hexdigest() != marker.get("files"):
        return [RECORD]
    recorded, found = json.loads(text), _scan(directory)
    if recorded == found:
        return []
    return sorted(
        name
        for name in recorded.keys() | found.keys()
        if recorded.get(name) != found.get(name)
        and (name in recorded or not _may_be_added(name, marker))
    )


def _may_be_added(name: str, marker: Mapping[str, Any]) -> bool:
    return bool(marker.get("grows")) or _CACHE in PurePosixPath(name).parts


class Seals:
    """Remembers which installations were whole when this process looked at all their files.

    May be shared by threads.
    """

    def __init__(self) -> None:
        self._whole: dict[Path, Fingerprint] = {}

    def is_whole(self, directory: Path, top: Path | None = None) -> bool:
        """Say whether an installation is as it was sealed.

        All its files are looked at once, and again when what lies at its top looks different.

        Parameters
        ----------
        directory : Path
            The installation.
        top : Path, optional
            A directory in it whose entries are compared each time; by default only the names of the
            installation's own are.
        """
        try:
            now = _fingerprint(directory, top)
            if self._whole.get(directory) == now:
                return True
            is_whole = not damage(directory)
        except OSError:
            is_whole = False
        if is_whole:
            self._whole[directory] = now
        else:
            self.forget(directory)
        return is_whole

    def forget(self, directory: Path) -> None:
        """Look at all files of an installation again when it is asked for next."""
        self._whole.pop(directory, None)


def records_of(site: Path) -> dict[str, Path]:
    """Return the list of files of each installed distribution, by its normalised name."""
    return {
        canonicalize_name(info.name.partition("-")[0]): info / "RECORD"
        for info in site.glob("*.dist-info")
    }


def altered(site: Path, *, thorough: bool = False) -> list[str]:
    """Return the distributions whose files are not those of their wheels.

    Files are linked from the package cache, so one that was changed in place in any environment
    is changed there as well. The lists of files are not linked, and hold the hashes.

    Parameters
    ----------
    site : Path
        Where wheels were just installed.
    thorough : bool, optional
        Hash all files; by default those only that were written after their wheel was unpacked.
    """
    lists = records_of(site).items()
    return [name for name, record in lists if not _is_as_listed(site, record, thorough)]


def _is_as_listed(site: Path, record: Path, thorough: bool) -> bool:
    try:
        unpacked_ns = min(
            (record.parent / name).stat().st_mtime_ns for name in ("METADATA", "WHEEL")
        )
        for name, digest in _hashes(record):
            file = f"{site}/{name}"
            is_suspect = thorough or os.stat(file).st_mtime_ns > unpacked_ns  # noqa: PTH116 - hot
            if is_suspect and _digest(file) != digest:
                return False
    except (OSError, ValueError, csv.Error):  # a list that cannot be read, or names no files
        return False
    return True


def _hashes(record: Path) -> Iterator[tuple[str, str]]:
    """Yield the files of a list that lie in ``site-packages``, and their hashes (PEP 376)."""
    with record.open(encoding="utf-8", newline="") as opened:
        text = opened.read()
    rows = csv.reader(io.StringIO(text)) if '"' in text else map(_cells, text.splitlines())
    for row in rows:
        is_inside = len(row) > 1 and row[0][:1] != "/" and ".." not in row[0].split("/")
        if is_inside and row[1].startswith("sha256="):
            yield row[0], row[1].removeprefix("sha256=")


def _cells(line: str) -> list[str]:
    return line.split(",")


def _digest(file: str) -> str:
    with open(file, "rb") as opened:  # noqa: PTH123 - hot
        digest = hashlib.file_digest(opened, "sha256").digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _scan(directory: Path) -> dict[str, list[Any]]:
    """Return kind, size, time, mode and link target of all below a directory.

    What is unrecorded is left out.
    """
    found: dict[str, list[Any]] = {}
    pending = [""]
    while pending:
        place = pending.pop()
        with os.scandir(directory / place) as entries:
            for entry in entries:
                name = f"{place}{entry.name}"
                if name in _UNRECORDED:
                    continue
                stat = entry.stat(follow_symlinks=False)
                if S_ISDIR(stat.st_mode):
                    found[name] = ["directory"]
                    pending.append(f"{name}/")
                elif S_ISLNK(stat.st_mode):
                    found[name] = ["link", os.readlink(entry.path)]  # noqa: PTH115 - hot
                else:
                    kind = "file" if S_ISREG(stat.st_mode) else "other"
                    found[name] = [kind, stat.st_size, stat.st_mtime_ns, S_IMODE(stat.st_mode)]
    return found


def _fingerprint(directory: Path, top: Path | None) -> Fingerprint:
    """Return what a change of an installation's top would change; reads no file."""
    marker = os.stat(directory / MARKER)  # noqa: PTH116 - hot; its time is that of the last use
    if top is None:
        stat = os.stat(directory)  # noqa: PTH116 - hot
        return marker.st_ino, marker.st_size, stat.st_ino, stat.st_mtime_ns
    with os.scandir(top) as entries:
        seen = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    return (
        marker.st_ino,
        marker.st_size,
        *(
            sorted(
                (name, stat.st_ino, stat.st_size, stat.st_mtime_ns)
                for name, stat in seen
                if name not in _UNRECORDED
            )
        ),
    )
