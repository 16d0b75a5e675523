"""What a spec's ``package`` can say, and what has to be installed for it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dissmodel_platform.errors import EnvironmentBuildError, PackageNotFound

BUILTIN_DIRECTORY = Path(__file__).parent.parent / "builtin_executors"
"""Source of the small package that serves specs without a ``package``."""

BUILTIN_DISTRIBUTION = "dissmodel-builtin-executors"

# What the resolver reads is a requirements file, where a line may also be an option (`-r file`), a
# path, or hold variables (`${NAME}`): so nothing goes there that is not of one of these forms.
_URL = r"(?:git\+(?:https?|ssh|file)|https?|file)://[^\s$]+"
_VERSIONS = r"[<>=!~]{1,3} *\w[\w <>=!~.,*+]*"
_MARKER = r";[ !\"%-~]*"  # printable, without # and $
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?) *(?:\[[\w .,-]*\])? *"
    rf"(?:@ *(?P<url>{_URL})|(?:{_VERSIONS})?) *(?:{_MARKER})?",
    re.ASCII,
)
_BARE_URL = re.compile(_URL, re.ASCII)
_LOCAL_REPOSITORY = re.compile(r"git\+file://([^@#\s]+)")
_CONSTRAINT = re.compile(_VERSIONS, re.ASCII)
_VERSION = re.compile(r"\w[\w.*+!]*", re.ASCII)


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
            with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
                total.update(os.fsencode(relative) + f"\0{content}\n".encode())
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

    def project_digest(self) -> str:
        """Return the SHA-256 of the project's files: a change means other metadata or dependencies.

        Beside the project file these are what its build backend may read them from.

        Raises
        ------
        PackageNotFound
            The directory is not there or is no Python project.
        """
        total = hashlib.sha256(self.project_file().read_bytes())
        for name in ("setup.py", "setup.cfg", "requirements.txt"):
            file = self.path / name
            if file.is_file() and file != self.project_file():
                total.update(f"\0{name}\0".encode() + file.read_bytes())
        return total.hexdigest()


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

    def local_repositories(self) -> tuple[Path, ...]:
        """Return the directories that ``git+file://`` requirements name."""
        named = (_LOCAL_REPOSITORY.search(line) for line in self.requirements)
        return tuple(Path(unquote(found[1])) for found in named if found)

    def digest(self) -> str:
        """Return the SHA-256 that identifies the request; one lock answers one request."""
        source = ""
        if self.tree is not None:
            source = self.tree.project_digest() if self.editable else self.tree.digest()
        content = {
            "package": self.package,
            "requirements": list(self.requirements),
            "project": source,
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
        A local source where none is allowed, or a text of none of these forms.
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
    name, path = _name(text), _local_path(text)
    if path is not None:
        tree = SourceTree(path, editable=True)
        return PackageRequest(text, (library,), tree, name or path.name, python)
    if not name and not _BARE_URL.fullmatch(text):
        raise EnvironmentBuildError(
            f"Package {text!r} cannot be read; give `name==version`, `name @ git+https://…@tag` or "
            f"`git+https://…@tag` in the spec's `package`."
        )
    return PackageRequest(text, (text, library), None, name, python)


def is_local(package: str) -> bool:
    """Say whether a ``package`` names something on the worker's own disk."""
    return _local_path(package) is not None or _url(package).startswith("git+file:")


def source_of(package: str) -> str | None:
    """Return the address in a ``package``, nothing for a plain name, ``None`` for neither."""
    text = package.strip()
    requirement = _REQUIREMENT.fullmatch(text)
    if requirement is not None:
        return requirement["url"] or ""
    return text if _BARE_URL.fullmatch(text) else None


def _name(text: str) -> str:
    """Return the distribution that a requirement names, or nothing."""
    requirement = _REQUIREMENT.fullmatch(text)
    return requirement["name"] if requirement else ""


def _url(text: str) -> str:
    """Return the address in a ``package``, or nothing."""
    requirement = _REQUIREMENT.fullmatch(text.strip())
    return (requirement["url"] or "") if requirement else text.strip()


def _local_path(text: str) -> Path | None:
    url = _url(text)
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path))
    if url.startswith(("/", "./", "../", "~/")):
        return Path(url).expanduser().absolute()
    return None


def _library_requirement(constraint: str | None) -> str:
    text = (constraint or "").strip().removeprefix("dissmodel").strip()
    if not text:
        return "dissmodel"
    if _CONSTRAINT.fullmatch(text):
        return f"dissmodel{text}"
    if _VERSION.fullmatch(text):
        return f"dissmodel=={text}"
    raise EnvironmentBuildError(
        f"The spec's `dissmodel` {text!r} cannot be read; give versions, as in `>=0.6,<0.7`."
    )
