"""The registry at one commit, as a change from the commit published before it.

Three steps, each cheaper to refuse at than the next: the tree's listing (kinds, names, sizes),
the comparison with the published commit, and only then the changed files themselves. One faulty
file is a problem with its path and never hides the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from dissmodel_platform.registry.bounded_toml import MAX_BYTES
from dissmodel_platform.registry.listing import FILE_MODES, model_stem, read_listing
from dissmodel_platform.registry.mirror_reader import (
    TREE_MODE,
    MirrorReader,
    TreeChange,
    TreeEntry,
)
from dissmodel_platform.registry.problems import SpecProblem
from dissmodel_platform.registry.spec import ParsedSpec, parse_spec
from dissmodel_platform.types import Revision

_NO_FILE = ("000000", TREE_MODE)
_BATCH_FILES = 500
_BATCH_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class RegistryFile:
    """A file of the registry that may be read.

    Parameters
    ----------
    name : str
        The model's name: the file's stem (``catalog`` for ``catalog.yaml``).
    path : str
        Path in the repository.
    oid : str
        Id of the content: the same id is the same bytes.
    size_bytes : int
        Size of the content.
    """

    name: str
    path: str
    oid: str
    size_bytes: int


@dataclass(frozen=True)
class SnapshotChange:
    """What a commit changes; nothing in it has been parsed.

    Parameters
    ----------
    revision : Revision
        The commit.
    base : Revision or None
        What it was compared with; ``None``: every file counts as changed.
    changed : tuple of RegistryFile
        New or different files that may be read, by path.
    removed : frozenset of str
        Models that ``base`` had a file for and this commit has not.
    refused : frozenset of str
        Models whose file is there and must not be read; ``problems`` says why.
    present : frozenset of str
        All models that have a file, readable or not. A published model that is not among them is
        withdrawn, whatever ``base`` was.
    problems : tuple of SpecProblem
        Of the whole commit's listing, unchanged files included; not yet of the files' contents.
    catalog : RegistryFile or None
        ``catalog.yaml``, where it may be read.
    catalog_refused : bool
        Whether ``catalog.yaml`` is there and must not be read.
    """

    revision: Revision
    base: Revision | None
    changed: tuple[RegistryFile, ...]
    removed: frozenset[str]
    refused: frozenset[str]
    present: frozenset[str]
    problems: tuple[SpecProblem, ...]
    catalog: RegistryFile | None
    catalog_refused: bool


@dataclass(frozen=True, slots=True)
class ModelReading:
    """One changed file and what became of it."""

    file: RegistryFile
    parsed: ParsedSpec


def read_snapshot(
    mirror: MirrorReader, revision: Revision, base: Revision | None
) -> SnapshotChange:
    """Compare a commit with the one that is published.

    Parameters
    ----------
    mirror : MirrorReader
        Where the commits are.
    revision : Revision
        The commit to publish.
    base : Revision or None
        The commit whose files have been read; ``None``, or one that the mirror has lost: read
        all of them.

    Raises
    ------
    GitFailed
        The mirror is damaged (``Mirror.rebuild`` mends it), or lists too many files.
    """
    listing = read_listing(mirror.entries(revision))
    present = frozenset(listing.models) | listing.refused
    if base is not None and not mirror.has_commit(base):
        base = None
    if base is None:
        touched = set(listing.models)
        removed: frozenset[str] = frozenset()
    else:
        changes = mirror.changes(base, revision)
        touched = _touched(changes, listing.models)
        gone = {model_stem(change.path) for change in changes if change.old_mode not in _NO_FILE}
        removed = frozenset(stem for stem in gone if stem is not None) - present
    return SnapshotChange(
        revision=revision,
        base=base,
        changed=tuple(_file(listing.models[name]) for name in sorted(touched)),
        removed=removed,
        refused=listing.refused,
        present=present,
        problems=listing.problems,
        catalog=None if listing.catalog is None else _file(listing.catalog),
        catalog_refused=listing.catalog_refused,
    )


def read_models(mirror: MirrorReader, change: SnapshotChange) -> Iterator[ModelReading]:
    """Read and parse the changed files one by one; memory stays at one of them.

    Raises
    ------
    GitFailed
        The mirror is damaged; what was yielded before is good.
    """
    blobs = mirror.read_blobs((file.oid for file in change.changed), max_bytes=MAX_BYTES)
    for file, blob in zip(change.changed, blobs, strict=True):
        assert blob.data is not None, "the listing refuses files of that size"
        yield ModelReading(file, parse_spec(file.path, blob.data))


def in_batches(readings: Iterable[ModelReading]) -> Iterator[list[ModelReading]]:
    """Put readings into batches of few files and of few bytes of source.

    A parsed spec takes up to twenty times the memory of its source, and several batches' worth of
    that is in use while one is published.
    """
    batch: list[ModelReading] = []
    size_bytes = 0
    for reading in readings:
        batch.append(reading)
        size_bytes += reading.file.size_bytes
        if len(batch) >= _BATCH_FILES or size_bytes >= _BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def _touched(changes: list[TreeChange], models: dict[str, TreeEntry]) -> set[str]:
    """Names of the readable files that the earlier commit had not, or could not be read there."""
    touched = {
        stem
        for change in changes
        if change.old_oid != change.new_oid or change.old_mode not in FILE_MODES
        if (stem := model_stem(change.path)) in models
    }
    # A file whose namesake in other case has gone was refused before, though it did not change.
    gone = {change.path.lower() for change in changes if change.new_mode in _NO_FILE}
    if gone:
        touched |= {name for name, entry in models.items() if entry.path.lower() in gone}
    return touched


def _file(entry: TreeEntry) -> RegistryFile:
    # A readable file's path is ASCII.
    path = entry.path.decode("ascii")
    return RegistryFile(PurePosixPath(path).stem, path, entry.oid, entry.size_bytes or 0)
