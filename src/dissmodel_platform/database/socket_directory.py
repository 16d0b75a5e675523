"""Where the embedded server's socket lies: beside its data, or where a path is short enough.

A Unix socket's address holds about 100 bytes (``sun_path`` in unix(7)), and libpq takes a comma in
it for the end of a host's name. Where ``PLATFORM_HOME`` is too long for that, the socket gets a
directory of its own with a short random name, and a file beside the data says where.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dissmodel_platform.database.account import hand_over, is_private
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.processes import Account

_SUN_PATH_BYTES = 108 if sys.platform.startswith("linux") else 104
_LONGEST_BYTES = _SUN_PATH_BYTES - len(b"/.s.PGSQL.5432\0")
_PREFIX = "dmp-pg-"
_RANDOM = "x" * 8  # what mkdtemp adds


@dataclass(frozen=True)
class SocketDirectory:
    """A directory that only the server's account and root can enter.

    Parameters
    ----------
    path : path
        The directory itself.
    record : path
        The file beside the data that names it.
    """

    path: Path
    record: Path

    @staticmethod
    def choose(directory: Path) -> Path:
        """Return the directory in which the socket's own directory can be.

        Parameters
        ----------
        directory : path
            ``PLATFORM_HOME/pg``; the answer wherever its path is short enough.

        Raises
        ------
        DatabaseError
            Every path for temporary files is too long.
        """
        if _fits(directory / "socket"):
            return directory
        for place in _temporary_places():
            if _fits(place / (_PREFIX + _RANDOM)):
                return place
        raise DatabaseError(
            f"The path {directory} is too long for a Unix socket, and so is every path for "
            "temporary files. Set PLATFORM_HOME or TMPDIR to a shorter one."
        )

    @classmethod
    def prepare(cls, directory: Path, place: Path, account: Account | None) -> Self:
        """Make the socket's directory, or take the one of an earlier start, and record it.

        Parameters
        ----------
        directory : path
            ``PLATFORM_HOME/pg``.
        place : path
            What `choose` returned.
        account : Account or None
            Whom the server runs as.
        """
        record = _record(directory)
        uid = os.geteuid() if account is None else account.uid
        path = directory / "socket"
        if place == directory:
            path.mkdir(mode=0o700, exist_ok=True)
        else:
            earlier = cls.recorded(directory, uid)
            if earlier is not None and earlier.parent == place:
                return cls(earlier, record)
            if earlier is not None:
                cls(earlier, record).remove()
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        if not is_private(path, uid):
            path.chmod(0o700)
            hand_over(path, account)
        temporary = record.with_suffix(".new")
        temporary.write_bytes(os.fsencode(path) + b"\n")
        temporary.replace(record)
        return cls(path, record)

    @staticmethod
    def recorded(directory: Path, uid: int) -> Path | None:
        """Find the socket's directory that the last start on `directory` recorded.

        Returns
        -------
        path or None
            ``None``: there is none, or it is no longer private to `uid`.
        """
        try:
            path = Path(os.fsdecode(_record(directory).read_bytes().removesuffix(b"\n")))
        except FileNotFoundError:
            return None
        return path if path.is_absolute() and is_private(path, uid) else None

    def clear(self) -> None:
        """Remove what a killed server left; nobody may be listening."""
        for entry in self.path.glob(".s.PGSQL.*"):
            entry.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the directory if it is one of the short ones; a missing one is fine."""
        if self.path.name.startswith(_PREFIX):
            with suppress(OSError):
                self.clear()
                self.path.rmdir()
            self.record.unlink(missing_ok=True)


def _record(directory: Path) -> Path:
    return directory / "socket-directory"


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= _LONGEST_BYTES and "," not in str(path)


def _temporary_places() -> list[Path]:
    places = [Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108 - mkdtemp makes it safe
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute() and os.geteuid() != 0 and is_private(runtime, os.geteuid()):
        places.insert(0, runtime)
    return places
