"""A new registry: the template as a git repository that passes its own check."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.registry.git import Git
from dissmodel_platform.registry.git_config import GitAccess
from dissmodel_platform.registry.remote import Remote, file_url
from dissmodel_platform.templates import template_directory

EXAMPLE = "flood_vector"
"""The template's model whose package is not published: it becomes an example to start from."""

_KEPT_DOT_FILES = frozenset({".github", ".gitignore"})
_AUTHOR = ("-c", "user.name=DisSModel Platform", "-c", "user.email=platform@localhost")
_EXAMPLE_HEAD = """\
# An example to start from, not read by the platform. To use it: publish the package
# examples/coastal-flood of the platform to a repository of yours, name that in `package`, remove
# the `# ` in front of the lines below, and move the file to models/.

"""


def make_registry(directory: Path) -> None:
    """Make a registry's repository, with one commit on ``main``.

    After an error, nothing is left of it.

    Parameters
    ----------
    directory : Path
        Where; must not exist, or be empty.

    Raises
    ------
    InvalidInput
        There is something at ``directory``, or it cannot be written.
    GitError
        git is not there, or refused.
    """
    directory = directory.absolute()
    try:
        if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
            raise InvalidInput(
                f"{directory} is there and not an empty directory; name one that does not exist."
            )
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _fill(directory)
        except BaseException:
            for path in missing:
                with contextlib.suppress(OSError):  # somebody else may use it by now
                    path.rmdir()
            raise
    except OSError as error:
        raise InvalidInput(f"{directory} cannot be made: {error}.") from error


def _fill(directory: Path) -> None:
    """Make the repository in a corner of the directory, and move it up when it is complete.

    The directory itself stays, since somebody's shell may be in it.
    """
    with tempfile.TemporaryDirectory(prefix=".new-", dir=directory) as corner:
        made = Path(corner) / "registry"
        shutil.copytree(template_directory("dissmodel-configs"), made, ignore=_not_copied)
        _set_example_aside(made)
        _commit(made, Path(corner) / "gitconfig")
        for entry in sorted(made.iterdir(), key=lambda entry: entry.name == ".git"):
            entry.rename(directory / entry.name)


def _not_copied(_: str, names: Collection[str]) -> set[str]:
    hidden = {name for name in names if name.startswith(".")} - _KEPT_DOT_FILES
    return hidden | {name for name in names if name == "__pycache__"}


def _set_example_aside(registry: Path) -> None:
    """Move the model that cannot be installed out of ``models/``, each line a comment."""
    spec = registry / "models" / f"{EXAMPLE}.toml"
    lines = spec.read_text(encoding="utf-8").splitlines()
    aside = registry / "examples" / spec.name
    aside.parent.mkdir()
    commented = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    aside.write_text(_EXAMPLE_HEAD + commented, encoding="utf-8")
    spec.unlink()


def _commit(directory: Path, config_file: Path) -> None:
    access = GitAccess(Remote(file_url(directory), "file"))
    git = Git(access, config_file)
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        [*_AUTHOR, "commit", "--quiet", "--message=Start from the template"],
    ):
        git.run("-C", str(directory), *command)
