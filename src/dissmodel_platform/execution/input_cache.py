"""A machine's copies of inputs, by content: each is fetched once and linked into many runs.

A copy is one file, hard-linked into the runs that read it, with mode 0444. That is no wall: a run
has the platform's own uid, so it can change the mode, write, and set the time of the last write
back. It cannot set the inode's change time (``ctime``), which each of these steps moves, as our own
links do. So what the file looks like after our last link is written down beside it (its *seal*),
under a lock; a copy that looks otherwise is hashed, or thrown away where it was plainly written to.
The wall is the run's name space, where there is one.

Every worker process of the machine uses the same directory, which may be deleted at any time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
import stat
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.environments.leases import Lease
from dissmodel_platform.storage.beneath import opened_directory
from dissmodel_platform.storage.tasks import see_through
from dissmodel_platform.types import Sha256

log = logging.getLogger(__name__)

_MODE = 0o444
_NEVER_WRITTEN = (0, 0)
"""Times (ns) of access and of the last write of a copy."""

_LOCKS = "locks"
_SEAL = ".seal"
_ARRIVING = ".arriving-"
_LOCK_DIGITS = 3  # 4096 locks, which stay: removing a lock that somebody waits for parts the two
_LOOK_SECONDS = 0.02
_RELEASE_SECONDS = 0.5
_ABANDONED_SECONDS = 86_400.0


@dataclass(frozen=True)
class InputsCollected:
    """What a collection has done.

    Attributes
    ----------
    removed_count : int
        Copies that were removed.
    before_bytes, after_bytes : int
        Size of all copies.
    """

    removed_count: int
    before_bytes: int
    after_bytes: int


@dataclass(frozen=True)
class _Copy:
    """One copy as a collection finds it."""

    sha256: Sha256
    size_bytes: int
    used_at: float


class InputCache:
    """Copies of inputs by content.

    Parameters
    ----------
    directory : Path
        Where they are; made when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def arriving(self) -> Iterator[Path]:
        """Give a place for a file whose content is not known yet; what stays there is removed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        place = self._directory / f"{_ARRIVING}{uuid.uuid4().hex}"
        try:
            yield place
        finally:
            place.unlink(missing_ok=True)

    @asynccontextmanager
    async def holding(self, sha256: Sha256) -> AsyncIterator[Holding]:
        """Have one content to oneself, among all workers of the machine, for the block."""
        with await _exclusive(self._lock(sha256)):
            yield Holding(self._path(sha256), sha256)

    async def release(self, sha256: Sha256, path: Path) -> None:
        """Remove a run's link to a copy, so that the copy needs no hashing afterwards.

        A link that is not released, as when somebody else has the content for long or the disk
        refuses, costs time only: the copy is hashed when it is wanted again.
        """
        with suppress(OSError):  # a TimeoutError is one
            async with asyncio.timeout(_RELEASE_SECONDS):
                lease = await _exclusive(self._lock(sha256))
            with lease:
                await see_through(
                    asyncio.to_thread(Holding(self._path(sha256), sha256).unlink, path)
                )

    def collect(self, max_bytes: int) -> InputsCollected | None:
        """Bring the copies below a size, removing those that were used longest ago.

        None that a run has a link to, and none that somebody holds, is removed.

        Parameters
        ----------
        max_bytes : int
            Size of all copies together; 0: no limit.

        Returns
        -------
        InputsCollected or None
            What was done; ``None`` where there is no limit.

        Raises
        ------
        OSError
            The disk refused.
        """
        self._remove_abandoned()
        if max_bytes == 0:
            return None
        copies = sorted(self._copies(), key=lambda copy: copy.used_at)
        before = after = sum(copy.size_bytes for copy in copies)
        removed = 0
        for copy in copies:
            if after <= max_bytes:
                break
            if self._remove(copy):
                after -= copy.size_bytes
                removed += 1
        return InputsCollected(removed, before, after)

    def _copies(self) -> Iterator[_Copy]:
        for path in self._directory.glob("??/*"):
            if path.suffix:
                continue
            with suppress(FileNotFoundError):
                seen = path.stat()
                used_at = seen.st_ctime
                with suppress(FileNotFoundError):
                    used_at = _seal_of(path).stat().st_mtime
                yield _Copy(Sha256(path.name), seen.st_size, used_at)

    def _remove(self, copy: _Copy) -> bool:
        path = self._path(copy.sha256)
        lease = Lease.exclusive(self._lock(copy.sha256))
        if lease is None:
            return False
        with lease:
            try:
                if path.stat().st_nlink > 1:
                    return False
            except FileNotFoundError:
                return False
            path.unlink(missing_ok=True)
            _seal_of(path).unlink(missing_ok=True)
        return True

    def _remove_abandoned(self) -> None:
        """Remove what was arriving when a worker was killed; a download that goes on is written."""
        for path in self._directory.glob(".*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def _lock(self, sha256: Sha256) -> Path:
        """Return the file whose lock stands for a content; its directory is there afterwards."""
        locks = self._directory / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        return locks / sha256[:_LOCK_DIGITS]

    def _path(self, sha256: Sha256) -> Path:
        return self._directory / sha256[:2] / sha256


class Holding:
    """One content, which nobody else adds, links or removes meanwhile.

    Parameters
    ----------
    path : Path
        Where the copy is, or would be.
    sha256 : Sha256
        The content.
    """

    def __init__(self, path: Path, sha256: Sha256) -> None:
        self._path = path
        self._sha256 = sha256

    @property
    def size_bytes(self) -> int:
        """Size of the copy, which is here."""
        return self._path.stat().st_size

    def is_intact(self) -> bool:
        """Say whether the copy is here and nobody has changed it; removes one that was changed."""
        try:
            seen = os.lstat(self._path)
        except FileNotFoundError:
            return False
        if _read_seal(self._path) == _signature(seen):
            return True
        # A link of a run that was killed, or that the run removed itself, moves the change time as
        # well; a mode or a time that is not ours shows that somebody wrote or meant to.
        if (
            stat.S_IMODE(seen.st_mode) == _MODE
            and stat.S_ISREG(seen.st_mode)
            and seen.st_mtime_ns == _NEVER_WRITTEN[1]
            and _hash(self._path) == self._sha256
            and _signature(os.lstat(self._path)) == _signature(seen)
        ):
            _write_seal(self._path)
            return True
        log.warning("the copy of input %s was changed by a run and is replaced", self._sha256)
        self._path.unlink(missing_ok=True)
        _seal_of(self._path).unlink(missing_ok=True)
        return False

    def adopt(self, arrived: Path) -> None:
        """Make a file that has the content the copy; it leaves its own place."""
        arrived.chmod(_MODE)
        os.utime(arrived, ns=_NEVER_WRITTEN)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        arrived.replace(self._path)  # sealed before it has its name: nobody finds it otherwise
        _write_seal(self._path)

    def link(self, place: Path) -> int:
        """Link the copy, which is intact, into a run; copy where the file system cannot link.

        Returns
        -------
        int
            Size of the file, in bytes.
        """
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.hardlink_to(self._path)
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(self._path, place)
            place.chmod(_MODE)
        self._seal_again()
        return place.stat().st_size

    def unlink(self, place: Path) -> None:
        """Remove a run's link, ``inputs/<number>/<name>`` in its directory.

        The run may have put links in the place of these, to have other files removed: they are not
        followed, and only what is the copy itself goes.
        """
        number, inputs = place.parent, place.parent.parent
        with (
            suppress(OSError),  # the run removed it
            opened_directory(inputs.parent, (inputs.name, number.name)) as directory,
        ):
            seen = os.lstat(self._path)
            if os.path.samestat(seen, os.lstat(place.name, dir_fd=directory)):
                is_sealed = _read_seal(self._path) == _signature(seen)
                os.unlink(place.name, dir_fd=directory)
                if is_sealed:
                    self._seal_again()

    def _seal_again(self) -> None:
        """Write down the change time that a link of ours has moved, and nothing else."""
        seen, sealed = os.lstat(self._path), _read_seal(self._path)
        if sealed is not None and sealed[:-1] == _signature(seen)[:-1]:
            _write_seal(self._path)


async def _exclusive(file: Path) -> Lease:
    """Wait for a lock; polling, since a thread that waits for one cannot be cancelled."""
    while True:
        lease = Lease.exclusive(file)
        if lease is not None:
            return lease
        await asyncio.sleep(_LOOK_SECONDS)


def _signature(seen: os.stat_result) -> list[int]:
    return [seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]


def _seal_of(path: Path) -> Path:
    return path.with_name(path.name + _SEAL)


def _read_seal(path: Path) -> list[int] | None:
    try:
        seal: list[int] = json.loads(_seal_of(path).read_bytes())
    except (FileNotFoundError, ValueError):  # never sealed, or the machine stopped meanwhile
        return None
    return seal


def _write_seal(path: Path) -> None:
    """Write down what a copy looks like; the seal's own time is that of the copy's last use."""
    _seal_of(path).write_text(json.dumps(_signature(os.lstat(path))))


def _hash(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
