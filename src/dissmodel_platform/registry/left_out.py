"""Files of a work tree that cannot be committed, told before git is asked to read them."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from dissmodel_platform.registry.bounded_toml import MAX_BYTES
from dissmodel_platform.registry.catalog import MAX_BYTES as MAX_CATALOG_BYTES
from dissmodel_platform.registry.listing import model_stem
from dissmodel_platform.registry.mirror_reader import CATALOG
from dissmodel_platform.registry.problems import SpecProblem, printable_path
from dissmodel_platform.registry.snapshot import SnapshotChange

_LARGEST_BYTES = 8 * 1024**2  # a server reads no file of this size, and git takes long to


class LeftOut(NamedTuple):
    """A model or catalogue that is there and could not be committed, and why."""

    path: bytes
    problem: SpecProblem


@dataclass
class Changed:
    """The changed paths of a work tree, by what can be done with them."""

    gone: list[bytes] = field(default_factory=list)
    addable: list[bytes] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, path: bytes, code: str, message: str) -> None:
        """Note a path that cannot be added; other files than a registry's own need no word."""
        if model_stem(path) is not None or path == CATALOG:
            self.left_out.append(LeftOut(path, SpecProblem(printable_path(path), code, message)))


def sort_changes(tree: Path, paths: Iterable[bytes]) -> Changed:
    """Look at the files behind the changed paths, without opening one.

    Parameters
    ----------
    tree : Path
        Top of the work tree.
    paths : iterable of bytes
        Relative to it.
    """
    changed = Changed()
    links: dict[Path, bool] = {}
    for path in paths:
        file = Path(tree, path.decode("utf-8", "surrogateescape"))
        mode, size_bytes = _look_at(file)
        above = file.parent
        if above not in links:
            inside = [p for p in (above, *above.parents) if p != tree and p.is_relative_to(tree)]
            links[above] = any(directory.is_symlink() for directory in inside)
        if mode is None or links[above]:
            changed.gone.append(path)
        elif stat.S_ISDIR(mode):
            # A repository inside this one; any other directory stands for the files below it.
            (changed.addable if (file / ".git").exists() else changed.gone).append(path)
        elif stat.S_ISREG(mode) and size_bytes > _LARGEST_BYTES:
            most = MAX_CATALOG_BYTES if path == CATALOG else MAX_BYTES
            message = f"The file has {size_bytes} bytes, and {most} are the most."
            changed.leave_out(path, "too-large", message)
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            changed.addable.append(path)
        else:
            message = f"{printable_path(path)} is no ordinary file."
            changed.leave_out(path, "not-a-file", message)
    return changed


def with_left_out(change: SnapshotChange, left_out: Iterable[LeftOut]) -> SnapshotChange:
    """Add to what a commit changes the models that are there and are not in it."""
    left_out = list(left_out)
    names = {stem for path, _ in left_out if (stem := model_stem(path)) is not None}
    return replace(
        change,
        changed=tuple(file for file in change.changed if file.name not in names),
        removed=change.removed - names,
        refused=change.refused | names,
        present=change.present | names,
        problems=(*change.problems, *(problem for _, problem in left_out)),
    )


def _look_at(file: Path) -> tuple[int | None, int]:
    try:
        status = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None, 0
    return status.st_mode, status.st_size
