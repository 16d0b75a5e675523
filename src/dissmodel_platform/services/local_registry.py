"""A registry for newcomers: made from the template, in git, on this machine."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.registry.git import Git
from dissmodel_platform.registry.git_config import GitAccess
from dissmodel_platform.registry.remote import parse_remote
from dissmodel_platform.templates import template_directory

EXAMPLE_TAG = "v0.1.0"
_PUBLISHED = 'package = "coastal-flood==0.1.0"'
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".*", "outputs", "*.egg-info")
_AUTHOR = ("-c", "user.name=DisSModel Platform", "-c", "user.email=platform@localhost")


@dataclass(frozen=True)
class LocalRegistry:
    """A registry repository and the package repository that it names.

    Attributes
    ----------
    registry : Path
        Work tree of ``dissmodel-configs``.
    package : Path
        Work tree of the example's package, tagged ``v0.1.0``.
    """

    registry: Path
    package: Path

    @property
    def registry_url(self) -> str:
        """What ``CONFIGS_REPO`` is set to."""
        return self.registry.as_uri()

    @property
    def package_requirement(self) -> str:
        """What the spec's ``package`` is set to."""
        return f"git+{self.package.as_uri()}@{EXAMPLE_TAG}"


def make_local_registry(directory: Path) -> LocalRegistry:
    """Make the registry and the example's package below a directory, unless they are there.

    The registry's entry for the example names the package's local repository, so that it runs
    without anything being published.

    Raises
    ------
    GitError
        git is not there, or refused.
    """
    made = LocalRegistry(directory / "dissmodel-configs", directory / "coastal-flood")
    if not made.package.exists():
        _make_repository(template_directory("coastal-flood"), made.package, tag=EXAMPLE_TAG)
    if not made.registry.exists():
        preparing = directory / ".dissmodel-configs"
        shutil.rmtree(preparing, ignore_errors=True)
        shutil.copytree(template_directory("dissmodel-configs"), preparing, ignore=_NOT_COPIED)
        spec = preparing / "models" / "flood_vector.toml"
        text = spec.read_text(encoding="utf-8")
        assert _PUBLISHED in text, "the template names the package as it would be published"
        spec.write_text(
            text.replace(_PUBLISHED, f'package = "{made.package_requirement}"'), encoding="utf-8"
        )
        _commit_everything(preparing)
        preparing.rename(made.registry)
    return made


def _make_repository(template: Path, directory: Path, *, tag: str) -> None:
    preparing = directory.with_name(f".{directory.name}")
    shutil.rmtree(preparing, ignore_errors=True)
    shutil.copytree(template, preparing, ignore=_NOT_COPIED)
    _commit_everything(preparing, tag=tag)
    preparing.rename(directory)


def _commit_everything(directory: Path, tag: str | None = None) -> None:
    """Make a directory a git repository with one commit on ``main``."""
    access = GitAccess(parse_remote(directory.as_uri(), allow_local=True))
    commands = [
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        [*_AUTHOR, "commit", "--quiet", "--message=Start from the template"],
        *([["tag", tag]] if tag else []),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        git = Git(access, Path(scratch) / "gitconfig")
        for command in commands:
            git.run("-C", str(directory), *command)
