"""What a spec's ``package`` can say, and what has to be installed for it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dissmodel_platform.errors import EnvironmentBuildError, PackageNotFound

BUILTIN_DIRECTORY = Path(__file__).parent.parent / "builtin_executors"
"""Source of the small package that serves specs without a ``package``."""

BUILTIN_DISTRIBUTION = "dissmodel-builtin-executors"

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(?:@|[<>=!~;]|$)")
_CONSTRAINT = re.compile(r"[<>=!~]")


@dataclass(frozen=True)
class SourceTree:
    """A local directory that is installed after the locked packages.

    Attributes
    ----------
    path : Path
        Directory with a ``pyproject.toml`` or ``setup.py``.
    editable : bool
        Whether the source as it is at the time of the run is what runs.
    """

    path: Path
    editable: bool

    def digest(self) -> str:
        """Return the SHA-256 over the names and contents of the tree's files."""
        total = hashlib.sha256()
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            relative = file.relative_to(self.path)
            if "__pycache__" in relative.parts or relative.parts[0].startswith("."):
                continue
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{relative.as_posix()}\0{content}\n".encode())
        return total.hexdigest()

    def project_file(self) -> Path:
        """Return the file that declares the tree's dependencies.

        Raises
        ------
        PackageNotFound
            The directory is not there or is no Python project.
        """
        for name in ("pyproject.toml", "setup.py"):
            if (self.path / name).is_file():
                return self.path / name
        raise PackageNotFound(
            f"Package {str(self.path)!r} cannot be installed: there is no pyproject.toml or "
            f"setup.py in that directory of the worker; correct `package` in the model's spec."
        )


@dataclass(frozen=True)
class PackageRequest:
    """What one spec asks to have installed.

    Attributes
    ----------
    package : str
        The spec's ``package``, or empty for the built-in executors.
    requirements : tuple of str
        Requirement lines for the resolver.
    tree : SourceTree or None
        A directory to install besides.
    distribution : str
        Name of the model's own distribution, empty where only the lock will tell.
    python : str
        Python minor version, such as ``3.11``.
    """

    package: str
    requirements: tuple[str, ...]
    tree: SourceTree | None
    distribution: str
    python: str

    @property
    def label(self) -> str:
        """How messages call the package."""
        return self.package or "built-in executors"

    @property
    def editable(self) -> bool:
        """Whether the sources may change between two runs."""
        return self.tree is not None and self.tree.editable

    def digest(self) -> str:
        """Return the SHA-256 that identifies the request; one lock answers one request."""
        project = ""
        if self.tree is not None:
            project = hashlib.sha256(self.tree.project_file().read_bytes()).hexdigest()
        content = {
            "package": self.package,
            "requirements": list(self.requirements),
            "project": project,
            "python": self.python,
            "machine": f"{platform.system()} {platform.machine()}",
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def request_for(
    package: str | None, dissmodel: str | None, *, allow_local: bool, python: str = ""
) -> PackageRequest:
    """Read a spec's ``package`` and ``dissmodel`` keys.

    Parameters
    ----------
    package : str or None
        A PyPI requirement, ``git+…``, ``name @ git+…``, a local path, or nothing.
    dissmodel : str or None
        Version constraint on the library, such as ``>=0.5,<0.7`` or ``0.6.2``.
    allow_local : bool
        Whether local paths and ``git+file://`` are allowed.
    python : str, optional
        Python minor version; this process's by default.

    Raises
    ------
    EnvironmentBuildError
        A local source where none is allowed.
    """
    python = python or ".".join(platform.python_version_tuple()[:2])
    library = _library_requirement(dissmodel)
    text = (package or "").strip()
    if not text:
        tree = SourceTree(BUILTIN_DIRECTORY, editable=False)
        return PackageRequest("", (library,), tree, BUILTIN_DISTRIBUTION, python)
    if not allow_local and is_local(text):
        raise EnvironmentBuildError(
            f"Package {text!r} is a local source, which this server does not allow; publish it "
            f"(PyPI or a git tag), or set PLATFORM_ALLOW_LOCAL_PACKAGES=true while developing."
        )
    path = _local_path(text)
    if path is not None:
        return PackageRequest(text, (library,), SourceTree(path, editable=True), path.name, python)
    named = None if text.startswith("git+") else _NAME.match(text)
    return PackageRequest(text, (text, library), None, named.group(1) if named else "", python)


def is_local(package: str) -> bool:
    """Say whether a ``package`` names something on the worker's own disk."""
    return _local_path(package) is not None or bool(
        re.search(r"(^|@\s*)(git\+)?file:", package.strip())
    )


def _local_path(text: str) -> Path | None:
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    if text.startswith(("/", "./", "../", "~")):
        return Path(text).expanduser().absolute()
    return None


def _library_requirement(constraint: str | None) -> str:
    text = (constraint or "").strip().removeprefix("dissmodel").strip()
    if not text:
        return "dissmodel"
    return f"dissmodel{text}" if _CONSTRAINT.match(text) else f"dissmodel=={text}"
