"""Reading a bare repository at a commit: what lies where, what changed, what it holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from dissmodel_platform.errors import RegistryError, RevisionNotFound
from dissmodel_platform.registry.git import Git, GitOutput
from dissmodel_platform.registry.git_faults import ADVICE, GitFailed, GitFault
from dissmodel_platform.registry.signatures import SignaturePolicy, check_signature
from dissmodel_platform.types import Revision

MODELS = b"models"
"""Directory of the registry that holds one file per model."""

CATALOG = b"catalog.yaml"
"""File of the registry that lists data sets."""

MAX_LISTING_BYTES = 12 * 1024**2
"""Longest listing that is read, in bytes: some 100,000 files."""

TREE_MODE = "040000"
"""Mode of a directory in git's listings."""

_STREAM_TIMEOUT_SECONDS = 3_600.0  # the reader may write to a slow database in between
_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LISTED = re.compile(rb"(\d{6}) [a-z]+ ([0-9a-f]+) +(\d+|-)\t([^\0]*)\0")
_RAW_CHANGE = re.compile(rb":(\d{6}) (\d{6}) ([0-9a-f]+) ([0-9a-f]+) [A-Z]\d*")


class Relation(StrEnum):
    """How a commit follows from another."""

    SAME = "same"
    FAST_FORWARD = "fast-forward"
    REWIND = "rewind"
    REWRITE = "rewrite"


class TreeEntry(NamedTuple):
    """One entry of a commit's tree.

    Parameters
    ----------
    path : bytes
        Path in the repository, as stored: any bytes but NUL.
    mode : str
        Six octal digits; ``100644`` and ``100755`` are files, ``120000`` a symbolic link,
        ``160000`` a submodule, ``040000`` a directory.
    oid : str
        Id of the object.
    size_bytes : int or None
        Size of a file or link; ``None`` for the others.
    """

    path: bytes
    mode: str
    oid: str
    size_bytes: int | None = None


class TreeChange(NamedTuple):
    """One path that differs between two commits; the absent side has mode ``000000``."""

    path: bytes
    old_mode: str
    new_mode: str
    old_oid: str
    new_oid: str


@dataclass(frozen=True, slots=True)
class Blob:
    """One file's content; ``data`` is ``None`` where it is larger than was asked for."""

    oid: str
    size_bytes: int
    data: bytes | None


class MirrorReader:
    """The reading half of a mirror; needs no lock, since objects never change.

    Parameters
    ----------
    directory : Path
        The bare repository.
    git : Git
        Runner of the commands.
    """

    def __init__(self, directory: Path, git: Git) -> None:
        self.directory = directory
        self._git = git

    def has_commit(self, revision: Revision) -> bool:
        """Whether the commit is here."""
        return revision in self._commits([revision])

    def relation(self, old: Revision, new: Revision) -> Relation:
        """Tell how ``new`` follows from ``old``, by comparing ids.

        An ``old`` that is not here any more counts as rewritten.

        Raises
        ------
        RevisionNotFound
            ``new`` is not here.
        """
        present = self._commits([old, new])
        if new not in present:
            raise RevisionNotFound(f"The mirror of the registry has no commit {new}.")
        if old == new:
            return Relation.SAME
        if old not in present:
            return Relation.REWRITE
        # Exit code 1: nothing in common.
        base = self._run("merge-base", old, new, expected=(0, 1)).text
        if base == old:
            return Relation.FAST_FORWARD
        return Relation.REWIND if base == new else Relation.REWRITE

    def verify(self, revision: Revision, policy: SignaturePolicy) -> None:
        """Refuse a commit without a good signature of a trusted key.

        Raises
        ------
        UntrustedCommit
            Says what git said of the signature.
        GitFailed
            The commit cannot be read.
        """
        check_signature(self._git, self.directory, revision, policy)

    def entries(self, revision: Revision) -> list[TreeEntry]:
        """List ``catalog.yaml`` and the direct children of ``models/``.

        A ``models`` that is no directory is listed itself. Nothing below the children is read.

        Raises
        ------
        GitFailed
            The commit is not here or cannot be read, or lists more than ``MAX_LISTING_BYTES``.
        """
        listed: list[TreeEntry] = []
        root = ["--full-tree", _checked(revision), "--", MODELS.decode(), CATALOG.decode()]
        for entry in self._list("-l", *root):
            if entry.path == MODELS and entry.mode == TREE_MODE:
                listed += self._list("-l", entry.oid, prefix=MODELS + b"/")
            else:
                listed.append(entry)
        return listed

    def changes(self, old: Revision, new: Revision) -> list[TreeChange]:
        """Compare two commits, for the paths that :meth:`entries` lists."""
        changes: list[TreeChange] = []
        root = [_checked(old), _checked(new), "--", MODELS.decode(), CATALOG.decode()]
        for change in self._compare(*root):
            if TREE_MODE not in (change.old_mode, change.new_mode):
                changes.append(change)
            elif change.path == MODELS:
                old_tree = change.old_oid if change.old_mode == TREE_MODE else self._empty_tree()
                new_tree = change.new_oid if change.new_mode == TREE_MODE else self._empty_tree()
                changes += self._compare(old_tree, new_tree, prefix=MODELS + b"/")
        return changes

    def read_blobs(self, oids: Iterable[str], *, max_bytes: int) -> Iterator[Blob]:
        """Yield files one by one, in the order asked for, by one git command.

        Memory stays at one file, however many are asked for.

        Parameters
        ----------
        oids : iterable of str
            Ids as :meth:`entries` gives them.
        max_bytes : int
            Larger ones are passed over, unread.

        Raises
        ------
        GitFailed
            One cannot be read: the mirror is damaged.
        """
        wanted = list(oids)
        command = ("cat-file", "--batch", "--buffer")
        request = "".join(f"{oid}\n" for oid in wanted).encode("ascii")
        with self._git.stream(
            *command,
            directory=self.directory,
            stdin=request,
            timeout_seconds=_STREAM_TIMEOUT_SECONDS,
        ) as process:
            for oid in wanted:
                words = process.read_line().split()
                if len(words) != 3 or words[0].decode() != oid or words[1] != b"blob":
                    raise self._git.failure_of(process, command)
                size = int(words[2])
                data = None
                if size <= max_bytes:
                    data = process.read_exactly(size)
                    if len(data) != size:
                        raise self._git.failure_of(process, command)
                else:
                    process.skip(size)
                process.skip(1)
                yield Blob(oid, size, data)

    def _run(
        self, *arguments: str, stdin: bytes = b"", expected: tuple[int, ...] = (0,)
    ) -> GitOutput:
        return self._git.run(
            *arguments,
            directory=self.directory,
            stdin=stdin,
            expected=expected,
            max_output_bytes=MAX_LISTING_BYTES,
        )

    def _commits(self, revisions: Iterable[Revision]) -> set[Revision]:
        """Return those of the revisions that are commits of this repository."""
        request = "".join(f"{_checked(revision)}\n" for revision in revisions)
        answer = self._run("cat-file", "--batch-check", stdin=request.encode("ascii"))
        lines = (line.split() for line in answer.text.splitlines())
        return {Revision(words[0]) for words in lines if len(words) == 3 and words[1] == "commit"}

    def _list(self, *arguments: str, prefix: bytes = b"") -> Iterator[TreeEntry]:
        output = self._run("ls-tree", "-z", *arguments).stdout
        listed = _LISTED.findall(output)
        if len(listed) != output.count(b"\0"):  # git writes BAD for a size that it cannot read
            raise GitFailed(
                GitFault.CORRUPT, f"{ADVICE[GitFault.CORRUPT]}.", command=["git", "ls-tree"]
            )
        for mode, oid, size, path in listed:
            yield TreeEntry(
                prefix + path, mode.decode(), oid.decode(), None if size == b"-" else int(size)
            )

    def _compare(self, *arguments: str, prefix: bytes = b"") -> Iterator[TreeChange]:
        output = self._run("diff-tree", "-z", "--raw", "--no-renames", *arguments).stdout
        fields = iter(output.split(b"\0")[:-1])
        for described, path in zip(fields, fields, strict=True):
            found = _RAW_CHANGE.fullmatch(described)
            if found is None:
                raise RegistryError(f"git described a change in an unknown way: {described[:80]!r}")
            yield TreeChange(prefix + path, *(word.decode() for word in found.groups()))

    def _empty_tree(self) -> str:
        return self._run("hash-object", "-t", "tree", "--stdin").text


def _checked(revision: Revision) -> str:
    if not _REVISION.fullmatch(revision):
        raise RevisionNotFound(f"{revision[:80]!r} is not a full commit id.")
    return revision
