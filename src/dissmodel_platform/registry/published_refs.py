"""Commits that were published: one private reference each, carried over to a new clone."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dissmodel_platform.registry.git import LOCAL_TIMEOUT_SECONDS, Git
from dissmodel_platform.registry.git_faults import GitFailed
from dissmodel_platform.registry.remote import file_url
from dissmodel_platform.types import Revision

PUBLISHED = "refs/published/"
"""Namespace of the references; each is named by its own commit's id."""

_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_PACKED = re.compile(rf"^\S+ {PUBLISHED}({_REVISION.pattern})$", re.MULTILINE)
_MOST_ASKED_FOR = 50


def published_revisions(repository: Path) -> set[Revision]:
    """Return the commits that a repository keeps, as far as its files can still be read.

    Does not ask git: one damaged reference would hide the others.
    """
    found: set[str] = set()
    directory = repository / PUBLISHED
    if directory.is_dir():
        found |= {path.name for path in directory.iterdir() if _REVISION.fullmatch(path.name)}
    packed = repository / "packed-refs"
    if packed.is_file():
        found |= set(_PACKED.findall(packed.read_text(encoding="ascii", errors="replace")))
    return {Revision(name) for name in found}


def carry_over(
    git: Git,
    wanted: Iterable[Revision],
    old: Path,
    new: Path,
    *,
    inherit: Sequence[int] = (),
) -> tuple[Revision, ...]:
    """Make a new clone keep the commits that were published.

    They are taken from the clone's own history, else from the old repository, else from the
    remote (many hosts hand out a commit by its id even after a force push).

    Returns
    -------
    tuple of Revision
        Those that were found nowhere.
    """
    length = len(git.run("hash-object", "-t", "tree", "--stdin", directory=new).text)
    # Those with ids of another hash cannot be in the clone, nor be asked for.
    foreign = tuple(sorted(revision for revision in wanted if len(revision) != length))
    missing = _keep_present(git, sorted({*wanted} - {*foreign}), new, inherit)
    if missing and old.is_dir():
        # All at once, then one by one: a damaged commit must not take the others with it.
        _fetch(git, file_url(old), missing, new, inherit)
        missing = _keep_present(git, missing, new, inherit)
        for revision in missing:
            _fetch(git, file_url(old), [revision], new, inherit)
        missing = _keep_present(git, missing, new, inherit)
    for revision in missing[:_MOST_ASKED_FOR]:
        _fetch(git, git.access.remote.url, [revision], new, inherit)
    return (*_keep_present(git, missing, new, inherit), *foreign)


def _keep_present(
    git: Git, revisions: list[Revision], repository: Path, inherit: Sequence[int]
) -> list[Revision]:
    """Give those that are here a reference and return the others."""
    if not revisions:
        return []
    request = "".join(f"{revision}\n" for revision in revisions).encode("ascii")
    answer = git.run("cat-file", "--batch-check", directory=repository, stdin=request).text
    present = {line.split()[0] for line in answer.splitlines() if line.split()[1] == "commit"}
    updates = "".join(f"update {PUBLISHED}{oid} {oid}\n" for oid in sorted(present))
    git.run("update-ref", "--stdin", directory=repository, stdin=updates.encode(), inherit=inherit)
    return [revision for revision in revisions if revision not in present]


def _fetch(
    git: Git, url: str, revisions: list[Revision], repository: Path, inherit: Sequence[int]
) -> None:
    """Try to fetch commits by their ids; whether they came is looked up afterwards."""
    refspecs = "".join(f"{revision}:{PUBLISHED}{revision}\n" for revision in revisions)
    with contextlib.suppress(GitFailed):
        git.run(
            *(("-c", "protocol.file.allow=always") if url.startswith("file://") else ()),
            "fetch",
            "--no-progress",
            "--no-tags",
            "--no-auto-maintenance",
            "--no-write-fetch-head",
            "--stdin",
            "--",
            url,
            directory=repository,
            stdin=refspecs.encode("ascii"),
            network=True,
            timeout_seconds=LOCAL_TIMEOUT_SECONDS,
            inherit=inherit,
        )
