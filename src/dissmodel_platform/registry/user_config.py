"""The few settings of a user's git that decide what a commit holds, and run nothing.

The files that the user's git ignores, and how it converts line ends, decide what the user would
commit. All other settings are left alone: many of them name programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from dissmodel_platform.registry.git import Git, GitOutput

_BOOLEANS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0"})
_TAKEN = {
    "core.autocrlf": _BOOLEANS | {"input"},
    "core.eol": frozenset({"lf", "crlf", "native"}),
    "core.filemode": _BOOLEANS,
}
_EXCLUDES = "core.excludesfile"
_WANTED = ("--null", "--get-regexp", r"^core\.(autocrlf|eol|filemode|excludesfile)$")
_SYSTEM = Path("/etc/gitconfig")
_ANY_EXIT_CODE = range(256)


def user_settings(git: Git, tree: Path, environ: Mapping[str, str]) -> list[str]:
    """Return the settings as words for git's command line.

    Parameters
    ----------
    git : Git
        May read the repository.
    tree : Path
        Top of the work tree; its repository's own settings win.
    environ : mapping of str to str
        Says where the user's own configuration is.
    """
    values: dict[str, str] = {}
    home = Path(environ.get("HOME") or "/nonexistent")
    for file in _files(environ, home):
        if file.is_file():
            found = git.run(
                *("config", "--file", str(file), "--includes", *_WANTED), expected=_ANY_EXIT_CODE
            )
            values |= _read(found)
    repository = git.run("-C", str(tree), "config", *_WANTED, expected=_ANY_EXIT_CODE)
    values |= _read(repository)
    words = [
        f"{key}={values[key]}"
        for key, taken in _TAKEN.items()
        if values.get(key, "").lower() in taken
    ]
    excludes = _excludes(values.get(_EXCLUDES), tree, environ, home)
    if excludes is not None:
        words.append(f"{_EXCLUDES}={excludes}")
    return [word for setting in words for word in ("-c", setting)]


def _files(environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Yield where git looks, the weakest first (git-config(1), FILES)."""
    yield _SYSTEM
    if "GIT_CONFIG_GLOBAL" in environ:
        yield Path(environ["GIT_CONFIG_GLOBAL"])
        return
    yield _own_directory(environ, home) / "config"
    yield home / ".gitconfig"


def _own_directory(environ: Mapping[str, str], home: Path) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "git"


def _read(output: GitOutput) -> dict[str, str]:
    entries = output.stdout.decode("utf-8", "surrogateescape").split("\0")
    # A key without a value stands for true.
    pairs = (entry.partition("\n") for entry in entries if entry)
    return {key.lower(): value if has_value else "true" for key, has_value, value in pairs}


def _excludes(
    stated: str | None, tree: Path, environ: Mapping[str, str], home: Path
) -> Path | None:
    if stated is None:
        file = _own_directory(environ, home) / "ignore"
    elif stated.startswith("~/"):
        file = home / stated[2:]
    else:
        file = tree / stated
    return file if file.is_file() else None
