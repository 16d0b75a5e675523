"""A bare mirror of the registry's repository: always whole, mends itself, loses nothing published.

There is no work tree, so nothing can be half checked out. Every change is a directory renamed into
place (a clone) or a reference moved by git (a fetch); a process killed anywhere leaves the old
state or the new one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dissmodel_platform.registry.git import Git
from dissmodel_platform.registry.git_config import GitAccess, GitCredentials
from dissmodel_platform.registry.git_faults import (
    ADVICE,
    REMOTE_FAULTS,
    GitFailed,
    GitFault,
    classify,
)
from dissmodel_platform.registry.mirror_lock import MirrorLock
from dissmodel_platform.registry.mirror_reader import MirrorReader
from dissmodel_platform.registry.mirror_swap import MirrorSwap
from dissmodel_platform.registry.published_refs import PUBLISHED, carry_over, published_revisions
from dissmodel_platform.registry.remote import check_branch, parse_remote
from dissmodel_platform.registry.remote_head import RemoteHead, read_remote_head
from dissmodel_platform.types import Revision

TIP = "refs/mirror/tip"
"""Where the served branch is kept, under one name: a renamed branch cannot collide with it."""

_PACKS_BEFORE_TIDYING = 50
_FSCK_TIMEOUT_SECONDS = 600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MirrorState:
    """What an update found.

    Parameters
    ----------
    revision : Revision
        The remote's commit; it is here, with all that it needs.
    ref : str
        Branch that it is from, in full.
    previous : Revision or None
        What was mirrored before; ``None`` on the first update.
    is_new : bool
        Whether the mirror was cloned anew.
    lost : tuple of Revision
        Published commits that a damaged mirror held and that could not be brought back.
    git_output : str
        What git said, secrets redacted; and which published commits were lost.
    """

    revision: Revision
    ref: str
    previous: Revision | None
    is_new: bool = False
    lost: tuple[Revision, ...] = ()
    git_output: str = ""

    @property
    def is_changed(self) -> bool:
        """Whether the remote serves another commit than at the last update."""
        return self.revision != self.previous


class Mirror(MirrorReader):
    """The mirror of one branch of one remote.

    Files beside ``directory`` that start with its name belong to the mirror too.

    Parameters
    ----------
    directory : Path
        Where the bare repository lies, or a link to that place; created by the first update.
    remote : str
        Address of the registry, see :func:`~dissmodel_platform.registry.remote.parse_remote`.
    branch : str or None
        The branch that is served; ``None``: the one that the remote's HEAD names.
    allow_local : bool
        Whether the remote may be a directory of this machine.
    credentials : GitCredentials, optional
        For a private registry.
    environ : mapping of str to str, optional
        The operator's environment (proxies, certificates); the process's own by default.
    network_timeout_seconds : float
        Limit of each command that talks to the remote.
    lock_timeout_seconds : float
        How long to wait for another writer of the same mirror.
    max_file_bytes : int
        Largest pack that is accepted from the remote, in bytes.

    Raises
    ------
    SettingsError
        The address or the branch is refused.
    """

    def __init__(
        self,
        directory: Path,
        remote: str,
        branch: str | None,
        *,
        allow_local: bool,
        credentials: GitCredentials | None = None,
        environ: Mapping[str, str] | None = None,
        network_timeout_seconds: float = 300.0,
        lock_timeout_seconds: float = 60.0,
        max_file_bytes: int = 2 * 1024**3,
    ) -> None:
        # What is swapped is the directory itself, beside which there is room, and not a link to it.
        directory = directory.resolve()
        self._swap = MirrorSwap(directory)
        access = GitAccess(
            remote=parse_remote(remote, allow_local=allow_local),
            repositories=(directory, self._swap.building, self._swap.broken),
            credentials=credentials or GitCredentials(),
        )
        config_file = directory.with_name(f"{directory.name}.gitconfig")
        super().__init__(
            directory, Git(access, config_file, environ=environ, max_file_bytes=max_file_bytes)
        )
        self._branch = None if branch is None else check_branch(branch)
        self._lock = MirrorLock(directory.with_name(f"{directory.name}.lock"))
        self._network_timeout_seconds = network_timeout_seconds
        self._lock_timeout_seconds = lock_timeout_seconds

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers of this host out, for several steps in a row; re-entrant.

        What a killed writer left behind is cleared up first.

        Raises
        ------
        RegistryError
            Another writer did not end in time.
        """
        with self._lock.held(self._lock_timeout_seconds) as is_outermost:
            if is_outermost:
                self._swap.clear_up()
            yield

    def update(self, published: Iterable[Revision] = ()) -> MirrorState:
        """Bring the remote's present commit here.

        One round trip where nothing changed. A mirror that is missing is cloned; one that is
        damaged, or of a registry with shorter or longer ids, is cloned anew beside it and swapped.

        Parameters
        ----------
        published : iterable of Revision
            Commits to bring along if the mirror has to be cloned anew, besides those that the old
            one still names.

        Raises
        ------
        GitFailed
            The remote cannot be reached, is empty, lacks the branch, sends what is refused, …
            The mirror is as it was.
        RegistryError
            Another writer did not end in time.
        """
        with self.locked():
            head = self._remote_head()
            if not self.directory.exists():
                return self._clone(head, published)
            previous: Revision | None = None
            try:
                previous = self.tip()
                if previous == head.revision:
                    return MirrorState(previous, head.ref, previous, git_output="No new commit.")
                if previous is not None and len(previous) != len(head.revision):
                    # The registry moved to ids of another hash, which one repository cannot mix.
                    return replace(self._clone(head, published), previous=previous)
                revision, output = self._fetch(self.directory, head)
            except GitFailed as error:
                if error.fault in REMOTE_FAULTS or self.is_sound():
                    raise
                return replace(self._clone(head, published), previous=previous)
            return MirrorState(revision, head.ref, previous, git_output=output)

    def rebuild(self, published: Iterable[Revision] = ()) -> MirrorState:
        """Clone anew beside the present mirror and swap; for when reading it failed.

        The commits that the old mirror's references name, and ``published``, are brought along:
        from the new clone, else from the old mirror, else from the remote by their ids.

        Raises
        ------
        GitFailed
            The remote cannot be reached, …; the mirror is as it was.
        """
        with self.locked():
            return self._clone(self._remote_head(), published)

    def tip(self) -> Revision | None:
        """Return the commit that was mirrored last, or ``None`` before the first update."""
        if not self.directory.exists():
            return None
        return _tip(self._git, self.directory)

    def is_sound(self) -> bool:
        """Whether every object can be read and nothing is missing; reads the whole mirror.

        One that is not found out in time counts as damaged: a new clone costs less than a mirror
        that never mends itself.

        Raises
        ------
        GitFailed
            It could not be found out: an interruption, no git.
        """
        try:
            # A mirror of an empty repository would be sound, and useless.
            if self.tip() is None:
                return False
            self._git.run(
                *("fsck", "--no-dangling", "--no-progress"),
                directory=self.directory,
                timeout_seconds=_FSCK_TIMEOUT_SECONDS,
            )
        except GitFailed as error:
            if error.fault in REMOTE_FAULTS - {GitFault.TIMEOUT, GitFault.TOO_LARGE}:
                raise
            return False
        return True

    def keep(self, revision: Revision) -> None:
        """Keep a commit for good: after this it survives force pushes and :meth:`maintain`.

        Call it before the commit is published anywhere.

        Raises
        ------
        GitFailed
            The commit is not here, or the disk is full.
        """
        with self.locked():
            self._write("update-ref", f"{PUBLISHED}{revision}", revision)

    def maintain(self) -> None:
        """Put many small packs into one, when there are many; nothing that is kept goes away.

        Every update brings a pack, so call this now and then, outside of what anybody waits for.

        Raises
        ------
        GitFailed
            The disk is full, or the mirror turned out to be damaged and could not be rebuilt.
        """
        packs = self.directory / "objects" / "pack"
        with self.locked():
            if sum(1 for _ in packs.glob("*.pack")) < _PACKS_BEFORE_TIDYING:
                return
            try:
                self._write("gc", "--quiet", "--prune=now")
            except GitFailed as error:
                if error.fault in REMOTE_FAULTS or self.is_sound():
                    raise
                self.rebuild()

    def interrupt(self) -> None:
        """End the git commands that run now and refuse new ones; for shutting down."""
        self._git.interrupt()

    def _remote_head(self) -> RemoteHead:
        timeout_seconds = self._network_timeout_seconds
        return read_remote_head(self._git, self._branch, timeout_seconds=timeout_seconds)

    def _fetch(self, directory: Path, head: RemoteHead) -> tuple[Revision, str]:
        """Bring the branch's commit; a later one, if it has moved since it was looked up."""
        output = self._git.run(
            "fetch",
            "--no-progress",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
            "--no-write-fetch-head",
            "--",
            self._git.access.remote.url,
            f"+{head.ref}:{TIP}",
            directory=directory,
            network=True,
            timeout_seconds=self._network_timeout_seconds,
            inherit=self._lock.inherited,
        )
        # With this alone git warns, changes nothing and calls it a success.
        if classify(output.stderr, network=True) is GitFault.SHALLOW:
            raise GitFailed(
                GitFault.SHALLOW, f"{ADVICE[GitFault.SHALLOW]}.", stderr_tail=output.stderr
            )
        revision = _tip(self._git, directory)
        if revision is None:
            raise GitFailed(
                GitFault.CORRUPT,
                f"{ADVICE[GitFault.CORRUPT]} (git fetched {head.ref} and cannot read it).",
                stderr_tail=output.stderr,
            )
        return revision, output.stderr

    def _clone(self, head: RemoteHead, published: Iterable[Revision]) -> MirrorState:
        wanted = {*published, *published_revisions(self.directory)}
        object_format = "sha256" if len(head.revision) == 64 else "sha1"
        init = ("init", "--quiet", "--bare", "--template=", f"--object-format={object_format}")
        self._git.run(*init, str(self._swap.building), inherit=self._lock.inherited)
        revision, output = self._fetch(self._swap.building, head)
        lost = carry_over(
            self._git, wanted, self.directory, self._swap.building, inherit=self._lock.inherited
        )
        self._swap.swap_in()
        if lost:
            told = f"{len(lost)} published commits were not found again: {', '.join(lost[:10])}"
            log.warning("%s", told)
            output = f"{output}\n{told}".lstrip()
        return MirrorState(revision, head.ref, None, True, lost, output)

    def _write(self, *arguments: str) -> None:
        self._git.run(*arguments, directory=self.directory, inherit=self._lock.inherited)


def _tip(git: Git, directory: Path) -> Revision | None:
    # Exit code 1: there is no such reference.
    found = git.run(
        "rev-parse",
        "--verify",
        "--quiet",
        f"{TIP}^{{commit}}",
        directory=directory,
        expected=(0, 1),
    )
    return Revision(found.text) if found.exit_code == 0 else None
