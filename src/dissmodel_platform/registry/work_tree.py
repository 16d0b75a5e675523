"""A registry's work tree as it is now, committed where its owner never sees it.

A researcher looks at a change before committing it, and a server reads commits only. So the files
that a server would read are committed as they stand, beside the user's repository, of which nothing
is written (not even the time of an object, which git renews when it would write it once more), and
whose configuration hardly counts (:mod:`~dissmodel_platform.registry.user_config`), so that no
filter, hook or monitor of anybody's is run::

    scratch/written.git   the commit's new objects, and the index it is made from
    scratch/read.git      borrows the objects of the user's repository and those; has a copy of
                          the user's index, which tells which files have changed
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dissmodel_platform.errors import InvalidInput, RegistryError
from dissmodel_platform.registry.git import Git, GitOutput
from dissmodel_platform.registry.git_config import GitAccess
from dissmodel_platform.registry.git_faults import REMOTE_FAULTS, GitFailed
from dissmodel_platform.registry.left_out import Changed, LeftOut, sort_changes
from dissmodel_platform.registry.mirror_reader import CATALOG, MODELS, MirrorReader
from dissmodel_platform.registry.problems import printable_path, shown
from dissmodel_platform.registry.remote import Remote, file_url
from dissmodel_platform.registry.user_config import user_settings
from dissmodel_platform.types import Revision

_READ = (MODELS.decode(), CATALOG.decode())
_IDENTITY = ("-c", "user.name=registry check", "-c", "user.email=registry-check@localhost")
_SUBMODULE = b"160000 "
_ANY_EXIT_CODE = range(256)


class WorkTree:
    """The work tree of a registry's repository.

    Parameters
    ----------
    path : Path
        The work tree, or a directory in it.
    scratch : Path
        An empty directory for the temporary repository; the caller removes it.
    environ : mapping of str to str, optional
        The user's environment; the process's own by default.

    Raises
    ------
    InvalidInput
        There is no work tree of a git repository at ``path``.
    """

    def __init__(
        self, path: Path, scratch: Path, *, environ: Mapping[str, str] | None = None
    ) -> None:
        path = path.absolute()
        if not path.is_dir():
            raise InvalidInput(f"There is no directory {path}; name the registry's work tree.")
        # The remote is never used: nothing here talks to one.
        access = GitAccess(Remote(file_url(path), "file"), [path, *path.parents])
        self.git = Git(access, scratch / "gitconfig")
        found = self._ask_there(path, "--show-toplevel")
        if found is None:
            raise InvalidInput(
                f"{path} is not in the work tree of a git repository; clone the registry, or make "
                f"one with `dissmodel-platform registry init`."
            )
        self.directory = Path(found)
        """The work tree's top."""
        self._written = scratch / "written.git"
        self._borrowing = scratch / "read.git"
        self._settings = user_settings(
            self.git, self.directory, os.environ if environ is None else environ
        )
        self.left_out: tuple[LeftOut, ...] = ()
        """What :meth:`commit` could not commit, though a server would look at it."""
        self._prepare()

    @property
    def reader(self) -> MirrorReader:
        """Reads the commits of the repository, and the one that :meth:`commit` makes."""
        return MirrorReader(self._borrowing, self.git)

    def head(self) -> Revision | None:
        """Return the commit that is checked out; ``None`` before the first one."""
        return self._revision("HEAD")

    def fork_point(self, ref: str) -> Revision:
        """Return the commit at which the checked out history left that of a branch.

        Parameters
        ----------
        ref : str
            A branch, tag or commit of the repository, such as ``origin/main``.

        Raises
        ------
        InvalidInput
            There is no such commit, or no commit in common.
        """
        other, head = self._revision(ref), self.head()
        if other is None:
            raise InvalidInput(
                f"There is no commit {ref!r} in {self.directory}; name a branch, tag or commit "
                f"that was fetched, such as origin/main."
            )
        if head is None:
            raise InvalidInput(f"{self.directory} has no commit yet; check it without --base.")
        bases = self._there(self.directory, "merge-base", head, other).text.split()
        if not bases:
            raise InvalidInput(
                f"{ref!r} and the work tree have no commit in common; fetch the whole history "
                f"(`git fetch --unshallow`; in a workflow, fetch-depth: 0)."
            )
        return Revision(bases[0])

    def commit(self) -> Revision:
        """Commit the models and the catalogue as they stand, staged or not; ignored files stay out.

        What git filters (LFS) or leaves out (sparse checkouts) is as in the user's index, unless
        it was edited. What cannot be committed is told of by ``left_out``.

        Raises
        ------
        RegistryError
            The content of an unchanged one is not in the repository.
        """
        looked_at = ("--", *_READ)
        staged = self._list("--cached", "--stage", *looked_at)
        changed = self._list(
            "--modified", "--deleted", "--others", "--exclude-standard", *looked_at
        )
        self._write("update-index", "-z", "--index-info", stdin=_lines(_unconflicted(staged)))
        paths = dict.fromkeys(path.rstrip(b"/") for path in changed)
        files = sort_changes(self.directory, paths)
        # First what is gone, also where a file has taken a directory's place, or the reverse.
        removals = _lines(paths.keys() - set(files.addable))
        self._write("update-index", "-z", "--force-remove", "--stdin", stdin=removals)
        self._add(files.addable, files)
        self.left_out = tuple(files.left_out)
        tree = self._write("write-tree", "--missing-ok")
        self._check_complete()
        return Revision(self._write(*_IDENTITY, "commit-tree", "-m", "The work tree", tree))

    def _add(self, paths: list[bytes], files: Changed) -> None:
        """Add files to the index; what git refuses is found by halves, and left out."""
        if not paths:
            return
        command = ("update-index", "-z", "--add", "--replace", "--stdin")
        try:
            self._write(*command, stdin=_lines(paths))
        except GitFailed as error:
            if error.fault in REMOTE_FAULTS:
                raise  # a full disk, say, is not the file's fault
            if len(paths) > 1:
                half = len(paths) // 2
                self._add(paths[:half], files)
                self._add(paths[half:], files)
            elif Path(self.directory, os.fsdecode(paths[0])).is_dir():
                message = "It is a repository of its own; commit the files themselves."
                files.leave_out(paths[0], "submodule", message)
            else:
                said = next(iter(error.stderr_tail.splitlines()), "git says nothing")
                files.leave_out(paths[0], "unreadable", f"git cannot read it: {shown(said, 200)}.")

    def file(self, path: str) -> Path | None:
        """Return a file that is in the repository, or would be with the next commit of everything.

        Parameters
        ----------
        path : str
            Relative to the top of the work tree.

        Returns
        -------
        Path or None
            ``None``: there is no such file, git ignores it, or it is a link out of the work tree.
        """
        listed = self._in_tree(
            self._borrowing, "--literal-pathspecs",
            "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", path,
            expected=_ANY_EXIT_CODE,
        )  # fmt: skip
        if os.fsencode(path) not in listed.stdout.split(b"\0"):
            return None
        found = self.directory / path
        is_inside = found.resolve().is_relative_to(self.directory.resolve())
        return found if is_inside and found.is_file() else None

    def _prepare(self) -> None:
        form = self._ask_there(self.directory, "--show-object-format") or "sha1"
        for repository in (self._written, self._borrowing):
            self.git.run("init", "--quiet", "--bare", f"--object-format={form}", str(repository))
        lenders = (self._place("objects"), self._written / "objects")
        alternates = self._borrowing / "objects" / "info" / "alternates"
        alternates.write_bytes(b"".join(os.fsencode(lender) + b"\n" for lender in lenders))
        index = self._place("index")
        for source in (index, *index.parent.glob("sharedindex.*")):
            if source.exists():  # with its time, by which git tells what may have changed since
                shutil.copy2(source, self._borrowing)
        for name in ("info/exclude", "info/attributes"):
            source = self._place(name)
            if source.is_file():
                for repository in (self._borrowing, self._written):
                    (repository / "info").mkdir(exist_ok=True)
                    shutil.copy(source, repository / name)

    def _place(self, name: str) -> Path:
        """Return where the user's repository keeps something."""
        found = self._ask_there(self.directory, "--git-path", name)
        assert found is not None, "the repository was found before"
        return self.directory / found

    def _revision(self, ref: str) -> Revision | None:
        words = ("--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        found = None if "\0" in ref else self._ask_there(self.directory, *words)
        return Revision(found) if found else None

    def _ask_there(self, path: Path, *words: str) -> str | None:
        """Ask ``git rev-parse`` in the user's repository; ``None``: it has no answer."""
        output = self._there(path, "rev-parse", *words)
        return os.fsdecode(output.stdout.removesuffix(b"\n")) if output.exit_code == 0 else None

    def _there(self, path: Path, *command: str) -> GitOutput:
        return self.git.run("-C", str(path), *command, expected=_ANY_EXIT_CODE)

    def _check_complete(self) -> None:
        """See that every file has its content: a partial clone, or a damaged one, lacks some."""
        entries = self._in_tree(self._written, "ls-files", "-z", "--stage").stdout.split(b"\0")
        oids = {
            entry.split(b" ")[1]: entry.partition(b"\t")[2]
            for entry in entries
            if entry and not entry.startswith(_SUBMODULE)
        }
        asked = b"".join(oid + b"\n" for oid in oids)
        command = ("cat-file", "--batch-check")
        answers = self._in_tree(self._borrowing, *command, stdin=asked).stdout.splitlines()
        for answer in answers:
            oid, _, what = answer.partition(b" ")
            if what == b"missing":
                raise RegistryError(
                    f"{self.directory} lacks the content of {printable_path(oids[oid])}: the clone "
                    f"is partial (--filter) or damaged; clone it anew, whole."
                )

    def _list(self, *words: str) -> list[bytes]:
        listed = self._in_tree(self._borrowing, "ls-files", "-z", *words).stdout
        return [entry for entry in listed.split(b"\0") if entry]

    def _write(self, *command: str, stdin: bytes = b"") -> str:
        return self._in_tree(self._written, *command, stdin=stdin).text

    def _in_tree(
        self,
        repository: Path,
        *command: str,
        stdin: bytes = b"",
        expected: Sequence[int] = (0,),
    ) -> GitOutput:
        """Run a command on the user's files, with the index and objects of one of our own."""
        tree = str(self.directory)
        words = ("-C", tree, "--work-tree", tree, *self._settings, *command)
        return self.git.run(*words, directory=repository, stdin=stdin, expected=expected)


def _unconflicted(staged: Iterable[bytes]) -> Iterator[bytes]:
    """Leave out the sides of a merge's conflicts (stages 1 to 3): their files have changed."""
    for entry in staged:  # mode, id, stage, then the path
        if entry.partition(b"\t")[0].endswith(b" 0"):
            yield entry


def _lines(entries: Iterable[bytes]) -> bytes:
    return b"".join(entry + b"\0" for entry in entries)
