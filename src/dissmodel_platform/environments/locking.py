"""Resolve once, then lock: every package with its hashes, every source built to a wheel.

Both run other people's code (a package's ``setup.py``, its build backend), so both happen in a
workshop, with a package cache that is thrown away: what is kept is the lock and the wheels.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from dissmodel_platform.environments.commands import Finished
from dissmodel_platform.environments.failures import explain
from dissmodel_platform.environments.lock import BuiltWheel, Lock, LockedPackage
from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.scratch import read_made
from dissmodel_platform.environments.ssh_sources import SshSources, fetch_ssh_sources
from dissmodel_platform.environments.uv import PYTHON, Uv
from dissmodel_platform.environments.wheels import best_wheel, built_wheel_path
from dissmodel_platform.environments.workshop import Room
from dissmodel_platform.errors import BuildFailed, PackageNotFound
from dissmodel_platform.types import Sha256

_MAX_LOCK_BYTES = 32 * 1024**2
_UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
_FETCH = Path(__file__).with_name("fetch.py").resolve()


@dataclass(frozen=True)
class LockMaker:
    """Makes one lock in a scratch directory.

    Attributes
    ----------
    uv : Uv
        Runs the tools.
    request : PackageRequest
        What is asked for.
    scratch : Path
        An empty directory on the file system of `wheels`.
    wheels : Path
        Where the wheels are put that are built (see `wheels.built_wheel_path`).
    accept : callable
        Gets what was resolved before anything of it is built, and raises where it is not allowed.
    private : Path
        Another empty directory, which what is built cannot change.
    """

    uv: Uv
    request: PackageRequest
    scratch: Path
    wheels: Path
    accept: Callable[[Lock], None]
    private: Path

    def make(self) -> Lock:
        """Resolve, and build what has no wheel.

        Raises
        ------
        EnvironmentBuildError
            One of its kinds, with a sentence that names the package and the cause.
        OSError
            The disk refuses.
        """
        sources = fetch_ssh_sources(self.uv, self.request.requirements, self.private, self._explain)
        room = self._room(sources)
        resolved = self._resolve(room)
        self.accept(resolved)
        built = [
            self._build(package, number, room)
            for number, package in enumerate(resolved.packages)
            if best_wheel(package) is None
        ]
        tree = self.request.tree
        if tree is not None and not tree.editable:
            source = self.scratch / "tree"
            shutil.copytree(tree.path, source, ignore=shutil.ignore_patterns("__pycache__"))
            built.append(self._build_wheel(source, self.request.distribution, room))
        return resolved.with_built(built)

    def _resolve(self, room: Room) -> Lock:
        (self.scratch / "requirements.in").write_text("\n".join(self.request.requirements) + "\n")
        sources = ["requirements.in"]
        if self.request.tree is not None:
            sources.append(str(self.request.tree.project_file()))
        self._run_uv(
            room, "pip", "compile", *sources,
            "--format", "pylock.toml", "--output-file", "pylock.toml",
            "--python", PYTHON, "--python-version", self.request.python,
            "--no-header", "--no-annotate", "--quiet",
        )  # fmt: skip
        return self._read_lock()

    def _read_lock(self) -> Lock:
        """Read the tool's answer, which what it has run could have replaced."""
        try:
            lock = Lock.parse(read_made(self.scratch / "pylock.toml", _MAX_LOCK_BYTES).decode())
        except _UNREADABLE as error:
            raise BuildFailed(
                f"Package {self.request.label!r} cannot be installed: resolving it left no lock "
                f"that can be read ({error})."
            ) from error
        if lock.built:
            raise BuildFailed(
                f"Package {self.request.label!r} cannot be installed: a build has written to its "
                "lock."
            )
        return lock

    def _build(self, package: LockedPackage, number: int, room: Room) -> BuiltWheel:
        """Fetch the source of a package and build it."""
        source = self.scratch / f"source-{number}"
        source.mkdir()
        if package.commit:
            self._clone(package, source, room)
            project = source / package.subdirectory
        elif package.sdist is not None:
            project = self._fetch(*package.sdist, source, room)
        else:
            raise PackageNotFound(
                f"Package {self.request.label!r} cannot be installed: it needs {package.name}, "
                "which is neither in an index nor in a git repository."
            )
        return self._build_wheel(project, package.name, room)

    def _clone(self, package: LockedPackage, source: Path, room: Room) -> None:
        """Check a git source out; with all its history, as versions may be made of tags."""
        for arguments in (
            ["clone", "--quiet", "--no-checkout", package.source, str(source)],
            ["-C", str(source), "checkout", "--quiet", "--detach", package.commit],
            ["-C", str(source), "submodule", "--quiet", "update", "--init", "--recursive"],
        ):
            git = shutil.which("git") or "/usr/bin/git"
            self._run(room, [git, *arguments])

    def _fetch(self, address: str, sha256: str, source: Path, room: Room) -> Path:
        """Download a source distribution; its hash is checked here, outside the walls."""
        file = source / address.rpartition("/")[2]
        self._run(room, [PYTHON, "-I", "-S", str(_FETCH), address, str(file)])
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != sha256:
            raise BuildFailed(
                f"Package {self.request.label!r} cannot be installed: {file.name} is not the file "
                f"that the index named (SHA-256 {found}, not {sha256}); try again, and ask the "
                "index's operator if it stays so."
            )
        return file

    def _build_wheel(self, project: Path, name: str, room: Room) -> BuiltWheel:
        """Build a project and keep its wheel; what came out is looked at, not believed."""
        out = self.scratch / f"out-{canonicalize_name(name)}"
        self._run_uv(
            room, "build", "--wheel", "--out-dir", str(out), "--python", PYTHON, str(project),
        )  # fmt: skip
        found = [] if out.is_symlink() else out.glob("*.whl")
        made = [path for path in found if path.is_file() and not path.is_symlink()]
        if len(made) != 1 or not _is_wheel_of(name, made[0].name):
            raise BuildFailed(
                f"Package {self.request.label!r} cannot be installed: building {name} did not make "
                f"one wheel of that name but {[path.name for path in made]}."
            )
        with made[0].open("rb") as opened:
            sha256 = Sha256(hashlib.file_digest(opened, "sha256").hexdigest())
        kept = built_wheel_path(self.wheels, sha256, made[0].name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        made[0].rename(kept)
        kept.chmod(0o444)
        return BuiltWheel(name, kept.name, sha256)

    def _run_uv(self, room: Room, *arguments: str) -> None:
        self._explain(self.uv.run(arguments, room, cache=self.scratch / "cache"))

    def _run(self, room: Room, command: Sequence[str]) -> None:
        self._explain(self.uv.command(command, room, cache=self.scratch / "cache"))

    def _explain(self, done: Finished) -> None:
        if done.exit_code != 0:
            raise explain(self.request.label, done.output_tail)

    def _room(self, sources: SshSources) -> Room:
        """Return what a tool gets: the scratch directory, the network, sources to read.

        A source that is being developed may be written to, as some build backends do.
        """
        tree = self.request.tree
        developed = (tree.path,) if tree is not None and tree.editable else ()
        shown = (tree.path,) if tree is not None else ()
        return Room(
            self.scratch,
            readable=(
                _FETCH,
                *shown,
                *self.request.local_repositories(),
                *sources.readable,
            ),
            writable=developed,
            network=True,
            variables=sources.variables,
        )


def _is_wheel_of(name: str, file: str) -> bool:
    try:
        return parse_wheel_filename(file)[0] == canonicalize_name(name)
    except InvalidWheelFilename:
        return False
