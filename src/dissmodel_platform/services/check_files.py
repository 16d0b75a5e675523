"""What a registry's work tree holds, read and judged by the code of the sync."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dissmodel_platform.environments.policy import PackagePolicy
from dissmodel_platform.errors import RegistryError
from dissmodel_platform.registry.catalog import MAX_BYTES as MAX_CATALOG_BYTES
from dissmodel_platform.registry.catalog import PATH as CATALOG_PATH
from dissmodel_platform.registry.catalog import ParsedCatalog, parse_catalog
from dissmodel_platform.registry.git_faults import GitFailed, GitFault
from dissmodel_platform.registry.holds import reason_to_hold
from dissmodel_platform.registry.left_out import with_left_out
from dissmodel_platform.registry.mirror_reader import MirrorReader
from dissmodel_platform.registry.problems import SpecProblem, printable_path
from dissmodel_platform.registry.snapshot import (
    ModelReading,
    RegistryFile,
    SnapshotChange,
    read_models,
    read_snapshot,
)
from dissmodel_platform.registry.work_tree import WorkTree
from dissmodel_platform.services.check_report import CheckReport, Step
from dissmodel_platform.services.package_policy import judge
from dissmodel_platform.types import Revision


@dataclass(frozen=True)
class RegistryContents:
    """The registry as it stands, and as it was at the base.

    Attributes
    ----------
    tree : WorkTree
        Where the files are.
    head, base : Revision or None
        What is checked out, and what it is compared with.
    change : SnapshotChange
        The work tree, as a change from the base.
    earlier : SnapshotChange or None
        The whole base.
    touched : frozenset of str
        Paths that differ from the base.
    catalog : bytes or None
        The catalogue's content, changed or not.
    parsed_catalog : ParsedCatalog or None
        The same, read.
    policy : PackagePolicy
        Which sources packages may come from.
    """

    tree: WorkTree
    head: Revision | None
    base: Revision | None
    change: SnapshotChange
    earlier: SnapshotChange | None
    touched: frozenset[str]
    catalog: bytes | None
    parsed_catalog: ParsedCatalog | None
    policy: PackagePolicy

    def removed(self) -> list[str]:
        """Return the files that the base has and the work tree has not, printable."""
        names = sorted(self.change.removed)
        gone = [printable_path(f"models/{name}.toml".encode()) for name in names]
        had_catalog = self.earlier is not None and self.earlier.catalog is not None
        has_catalog = self.change.catalog is not None or any(
            problem.path == CATALOG_PATH for problem in self.change.problems
        )
        return [CATALOG_PATH, *gone] if had_catalog and not has_catalog else gone

    def readings(self) -> Iterator[ModelReading]:
        """Read the changed models one by one; all of them at once may not fit into memory."""
        with _told_of(self.tree.directory):
            for reading in read_models(self.tree.reader, self.change):
                yield judge(reading, self.policy)

    def reading(self, file: RegistryFile) -> ModelReading:
        """Read one of the changed models."""
        with _told_of(self.tree.directory):
            (reading,) = read_models(self.tree.reader, replace(self.change, changed=(file,)))
        return judge(reading, self.policy)

    def report_on(self, report: CheckReport) -> None:
        """Note what a sync would say of the commit's listing and of the catalogue."""
        for problem in self._new_problems():
            report.file(problem.path).add(Step.SPEC, [problem])
        if self.parsed_catalog is not None and self._has_new_catalog:
            report.file(CATALOG_PATH).add(Step.SPEC, self.parsed_catalog.problems)

    @property
    def _has_new_catalog(self) -> bool:
        before = self.earlier.catalog if self.earlier else None
        after = self.change.catalog
        return after is not None and (before is None or before.oid != after.oid)

    def _new_problems(self) -> Iterator[SpecProblem]:
        """Yield what is wrong with the listing, unless the base has it too."""
        known = set(self.earlier.problems) if self.earlier else set()
        for problem in self.change.problems:
            if problem not in known or problem.path in self.touched:
                yield problem
        if self.earlier is not None:
            reason = reason_to_hold(self.change, self.earlier.present, None, "accept")
            if reason is not None:
                message = f"{reason} A server publishes it once its administrator accepts it."
                yield SpecProblem("models", "would-be-held", message, severity="warning")


def read_registry(
    directory: Path, base_ref: str | None, scratch: Path, policy: PackagePolicy
) -> RegistryContents:
    """Read a work tree as a sync reads a commit.

    Parameters
    ----------
    base_ref : str or None
        What to compare it with; ``None``: every file counts as changed.
    policy : PackagePolicy
        Which sources packages may come from.

    Raises
    ------
    InvalidInput
        There is no work tree, or no such base.
    RegistryError
        git fails to read it.
    """
    with _told_of(directory.absolute()):
        return _read(directory, base_ref, scratch, policy)


@contextlib.contextmanager
def _told_of(directory: Path) -> Iterator[None]:
    """Say of a damaged repository what its owner can do; git's advice is about a mirror."""
    try:
        yield
    except GitFailed as error:
        if error.fault is not GitFault.CORRUPT:
            raise
        raise RegistryError(
            f"{directory} cannot be read: {_last_line(error)}. See `git fsck`; a partial clone "
            f"(--filter) lacks files that the check reads."
        ) from error


def _read(
    directory: Path, base_ref: str | None, scratch: Path, policy: PackagePolicy
) -> RegistryContents:
    tree = WorkTree(directory, scratch)
    base = tree.fork_point(base_ref) if base_ref is not None else None
    revision, reader = tree.commit(), tree.reader
    change = with_left_out(read_snapshot(reader, revision, base), tree.left_out)
    differences = reader.changes(base, revision) if base is not None else []
    catalog = _catalog_content(reader, change.catalog)
    return RegistryContents(
        tree=tree,
        head=tree.head(),
        base=base,
        change=change,
        policy=policy,
        earlier=read_snapshot(reader, base, None) if base is not None else None,
        touched=frozenset(printable_path(entry.path) for entry in differences),
        catalog=catalog,
        parsed_catalog=None if catalog is None else parse_catalog(catalog),
    )


def _catalog_content(reader: MirrorReader, file: RegistryFile | None) -> bytes | None:
    """Return the catalogue; for one that is too large, something that is refused as such."""
    if file is None:
        return None
    (blob,) = reader.read_blobs([file.oid], max_bytes=MAX_CATALOG_BYTES)
    return blob.data if blob.data is not None else bytes(MAX_CATALOG_BYTES + 1)


def _last_line(error: GitFailed) -> str:
    lines = [line.strip() for line in error.stderr_tail.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "an object is missing or damaged"
