"""Real registries: bare repositories in a temporary directory, hostile ones among them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from dissmodel_platform.registry.mirror import Mirror

# (mode, name, content or id): what a tree holds.
Entry = tuple[bytes, bytes, bytes | str]


class Registry:
    """A bare repository that tests push to by plumbing commands, without a work tree."""

    FILE = b"100644"
    LINK = b"120000"
    SUBMODULE = b"160000"
    TREE = b"40000"

    def __init__(self, directory: Path, branch: str = "main") -> None:
        self.directory = directory
        self.branch = branch
        self.object_format = "sha1"
        self._config = directory.with_name(directory.name + ".test-config")
        self._config.write_text("[core]\nfsync = none\n[gc]\nauto = 0\n")
        self.git("init", "--quiet", "--bare", f"--initial-branch={branch}", str(directory))

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        result = subprocess.run(
            ["git", *arguments],
            input=stdin,
            capture_output=True,
            cwd=self.directory if self.directory.is_dir() else "/",
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "GIT_CONFIG_GLOBAL": str(self._config),
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_AUTHOR_NAME": "A. Modeller",
                "GIT_AUTHOR_EMAIL": "a@example.org",
                "GIT_COMMITTER_NAME": "A. Modeller",
                "GIT_COMMITTER_EMAIL": "a@example.org",
            },
        )
        assert result.returncode == 0, (arguments, result.stderr)
        return result.stdout.decode("latin-1").strip()

    def write_object(self, kind: str, content: bytes) -> str:
        """Write an object that nothing has checked, without the cost of a process."""
        data = f"{kind} {len(content)}\0".encode() + content
        oid = hashlib.new(self.object_format, data).hexdigest()
        path = self.directory / "objects" / oid[:2] / oid[2:]
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(zlib.compress(data, 1))
        return oid

    def blob(self, content: bytes) -> str:
        return self.write_object("blob", content)

    def tree(self, entries: Sequence[Entry]) -> str:
        """Write a tree as it is asked for: no name and no mode is checked."""
        raw = b""
        for mode, name, what in sorted(
            entries, key=lambda entry: entry[1] + (b"/" if entry[0] == self.TREE else b"")
        ):
            oid = self.blob(what) if isinstance(what, bytes) else what
            raw += mode + b" " + name + b"\0" + bytes.fromhex(oid)
        return self.write_object("tree", raw)

    def commit_tree(self, entries: Sequence[Entry], *, parent: str | None = "tip") -> str:
        """Commit a root tree to the branch; ``parent=None`` starts a new history."""
        parents: list[str] = []
        if parent == "tip":
            parents = [tip] if (tip := self.tip()) else []
        elif parent is not None:
            parents = [parent]
        tree = self.tree(entries)
        options = [word for commit in parents for word in ("-p", commit)]
        oid = self.git("commit-tree", "-m", "a change", *options, tree)
        self.git("update-ref", f"refs/heads/{self.branch}", oid)
        return oid

    def commit(
        self,
        models: Mapping[str, str | bytes],
        *,
        parent: str | None = "tip",
        others: Sequence[Entry] = (),
    ) -> str:
        """Commit exactly these files of ``models/``."""
        entries: list[Entry] = [
            (self.FILE, name.encode(), text.encode() if isinstance(text, str) else text)
            for name, text in models.items()
        ]
        return self.commit_tree(
            [(self.TREE, b"models", self.tree(entries)), *others], parent=parent
        )

    def commit_models(self, entries: Sequence[Entry], *, parent: str | None = "tip") -> str:
        """Commit exactly these entries of ``models/``, of any kind and name."""
        return self.commit_tree([(self.TREE, b"models", self.tree(entries))], parent=parent)

    @staticmethod
    def model(name: str, value: int = 1) -> str:
        """Text of a good spec."""
        head = f'[model]\nname = "{name}"\nclass = "{name}"\n'
        return f"{head}[model.parameters]\nvalue = {value}\n"

    def tip(self) -> str:
        return self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{self.branch}")

    def reset(self, commit: str) -> None:
        self.git("update-ref", f"refs/heads/{self.branch}", commit)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "remote.git")


MakeMirror = Callable[..., Mirror]


@pytest.fixture
def make_mirror(tmp_path: Path, registry: Registry) -> MakeMirror:
    """Mirrors of the registry; all in the same place, as successive processes have them."""

    def make(remote: str | None = None, branch: str | None = None, **options: object) -> Mirror:
        options.setdefault("lock_timeout_seconds", 20.0)
        return Mirror(
            tmp_path / "home" / "registry.git",
            remote or str(registry.directory),
            branch,
            allow_local=True,
            **options,  # type: ignore[arg-type]
        )

    return make


@pytest.fixture
def mirror(make_mirror: MakeMirror) -> Mirror:
    return make_mirror()
