"""Which entries of a commit are models: kinds, names and sizes, checked before a file is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dissmodel_platform.registry.bounded_toml import MAX_BYTES
from dissmodel_platform.registry.mirror_reader import CATALOG, MODELS, TREE_MODE, TreeEntry
from dissmodel_platform.registry.problems import SpecProblem, printable_path
from dissmodel_platform.registry.spec_checks import MODEL_NAME, name_fault

FILE_MODES = frozenset({"100644", "100755", "100664"})
"""Modes of ordinary files; the last is found in very old repositories."""

MAX_PROBLEMS = 1_000
"""Problems that are told of one listing; further ones are counted."""

_DIRECTORY = MODELS + b"/"
_SUFFIX = b".toml"
_GOOD_PATH = re.compile(rb"models/(" + MODEL_NAME.pattern.encode() + rb")\.toml")
_KINDS = {
    "120000": ("symbolic-link", "is a symbolic link; commit the file itself"),
    "160000": ("submodule", "is a submodule; commit the files themselves"),
}


@dataclass(frozen=True)
class Listing:
    """What a commit holds, before any file is read.

    Parameters
    ----------
    models : dict of str to TreeEntry
        Files that may be read, by the model's name.
    refused : frozenset of str
        Names of models whose file is there and must not be read.
    problems : tuple of SpecProblem
        What is wrong, for the whole commit.
    catalog : TreeEntry or None
        ``catalog.yaml``, where it is an ordinary file.
    catalog_refused : bool
        Whether ``catalog.yaml`` is there and must not be read.
    """

    models: dict[str, TreeEntry]
    refused: frozenset[str]
    problems: tuple[SpecProblem, ...]
    catalog: TreeEntry | None
    catalog_refused: bool


def read_listing(entries: Iterable[TreeEntry]) -> Listing:
    """Sort a commit's entries into models, other files and problems.

    Only ``models/*.toml`` are models. A directory below ``models/`` is passed over with a warning,
    any other file (a README, say) silently unless its name looks like a misspelt ``.toml``.
    """
    models: dict[str, TreeEntry] = {}
    refused: set[str] = set()
    problems: list[SpecProblem] = []
    catalog: TreeEntry | None = None
    catalog_refused = False
    entries = list(entries)
    clashing = _clashing_paths(entries)
    for entry in entries:
        good = _GOOD_PATH.fullmatch(entry.path)
        if good and _is_readable(entry) and entry.path not in clashing:
            models[good[1].decode("ascii")] = entry
            continue
        stem = model_stem(entry.path)
        if stem is None or entry.mode == TREE_MODE:
            problem = _other_problem(entry)
            if entry.path == CATALOG:
                catalog_refused = problem is not None
                catalog = None if catalog_refused else entry
        else:
            refused.add(stem)
            problem = _model_problem(entry, stem, entry.path in clashing)
        if problem is not None:
            problems.append(problem)
    if not any(entry.path.startswith(MODELS) for entry in entries):
        message = "The repository has no models/ directory, so it publishes no model."
        problems.append(SpecProblem(MODELS.decode(), "no-models-directory", message))
    return Listing(models, frozenset(refused), _bounded(problems), catalog, catalog_refused)


def _bounded(problems: list[SpecProblem]) -> tuple[SpecProblem, ...]:
    left_out = len(problems) - MAX_PROBLEMS
    if left_out <= 0:
        return tuple(problems)
    message = f"{left_out} more files have a problem; mend the listed ones first."
    rest = SpecProblem(MODELS.decode(), "more-problems", message, severity="warning")
    return (*problems[:MAX_PROBLEMS], rest)


def model_stem(path: bytes) -> str | None:
    """Return the name of the model that a path stands for; ``None``: it is no model's file.

    The name is what the path says, not yet checked; odd bytes are escaped.
    """
    if not (path.startswith(_DIRECTORY) and path.endswith(_SUFFIX)):
        return None
    return path[len(_DIRECTORY) : -len(_SUFFIX)].decode("utf-8", "backslashreplace")


def _clashing_paths(entries: list[TreeEntry]) -> set[bytes]:
    """Return the models' files that are there twice, or differ only in upper and lower case."""
    paths = [entry.path for entry in entries if entry.mode != TREE_MODE]
    if len({path.lower() for path in paths}) == len(paths):
        return set()
    times = Counter(path.lower() for path in paths)
    return {path for path in paths if times[path.lower()] > 1}


def _is_readable(entry: TreeEntry) -> bool:
    return entry.mode in FILE_MODES and 0 < (entry.size_bytes or 0) <= MAX_BYTES


def _model_problem(entry: TreeEntry, stem: str, is_clashing: bool) -> SpecProblem | None:
    path = printable_path(entry.path)
    if entry.mode not in FILE_MODES:
        return _kind_problem(entry, path)
    if is_clashing:
        message = f"{path} is there twice, or once more in other case; none of them is read."
        return SpecProblem(path, "name-clash", message)
    if not entry.size_bytes:
        return SpecProblem(path, "empty-file", "The file is empty.")
    if entry.size_bytes > MAX_BYTES:
        message = f"The file has {entry.size_bytes} bytes, and {MAX_BYTES} are the most."
        return SpecProblem(path, "too-large", message)
    return name_fault(path, stem)


def _other_problem(entry: TreeEntry) -> SpecProblem | None:
    path = printable_path(entry.path)
    if entry.path == MODELS:
        message = "models is no directory, so the repository publishes no model."
        return SpecProblem(path, "no-models-directory", message)
    if entry.path == CATALOG:
        return None if entry.mode in FILE_MODES else _kind_problem(entry, path)
    if entry.mode == TREE_MODE:
        message = "Directories below models/ are not read; move the files up."
        return SpecProblem(path, "directory-ignored", message, severity="warning")
    if entry.path.lower().endswith((_SUFFIX, b".tml", b".toml.txt")):
        message = "The file is not read; a model's file ends in .toml."
        return SpecProblem(path, "suffix-ignored", message, severity="warning")
    return None


def _kind_problem(entry: TreeEntry, path: str) -> SpecProblem:
    code, what = _KINDS.get(entry.mode, ("not-a-file", "is no ordinary file"))
    return SpecProblem(path, code, f"{path} {what}.")
