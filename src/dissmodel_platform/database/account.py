"""The account that the embedded PostgreSQL runs under when we are root.

PostgreSQL refuses to run as root, so root's server gets a user id of its own, to which nothing but
the database's own directories belongs. Three things make that less simple than it sounds:

- *Sharing* an account such as ``nobody`` would let every other daemon of that name read the
  database. So we take a number that no account has; nothing needs to be created for that.
- *Directories in between* are often closed: ``/root`` is 0700, and so is what mkdtemp makes. They
  stay closed. Where data or programs lie behind one, the server keeps a single capability that
  lets it pass: ``CAP_DAC_READ_SEARCH`` (read anything), or in containers that withhold it
  ``CAP_DAC_OVERRIDE`` (write as well). Nobody gains by it: only root can connect to such a server,
  and the role that the platform uses is no superuser, so its SQL opens no files.
- *initdb* insists on a user id that has a name. It runs as ``nobody``, but in the server's own
  group, in a directory that only this group can enter; then the files are handed over.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.processes import Account

_SERVER_IDS = range(65520, 65534)
"""Numbers without a purpose of their own (systemd.io/UIDS-GIDS, summary), and few enough to exist
in a container that maps 65,536 of them."""

_DAC_OVERRIDE = 1  # these: linux/capability.h
_DAC_READ_SEARCH = 2
_INDISPENSABLE = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}
"""Without the first, files cannot be handed over; without the second, not even the kernel would
stop the server of a killed owner; without the others, it cannot be given another account."""


def server_account(data: Path, needed: Iterable[Path]) -> Account | None:
    """Choose whom the server runs as: ourselves, unless we are root.

    Parameters
    ----------
    data : path
        The database's files; once they exist, their owner is the account.
    needed : iterable of path
        Files that the server must read, and directories that it must pass.

    Returns
    -------
    Account or None
        ``None``: as this process.

    Raises
    ------
    DatabaseError
        What is needed lies behind a closed directory, and nothing lets another account pass; or
        root is not allowed here what root usually is.
    """
    if os.geteuid() != 0:
        return None
    held = _effective_capabilities()
    missing = [name for name, number in _INDISPENSABLE.items() if not held >> number & 1]
    if missing:
        raise DatabaseError(
            f"PostgreSQL refuses to run as root, and this root may not run it as somebody else "
            f"(it lacks {', '.join(missing)}). Start dissmodel-platform as an ordinary user, or "
            "set DATABASE_URL."
        )
    uid, gid = _owner(data) or _free_ids()
    account = Account(uid, gid)
    closed = [place for path in needed if (place := _first_closed(path, account)) is not None]
    if not closed:
        return account
    for capability in (_DAC_READ_SEARCH, _DAC_OVERRIDE):
        if held >> capability & 1:
            return replace(account, capability=capability)
    raise DatabaseError(
        f"PostgreSQL refuses to run as root, and the account it would run under (uid {uid}) cannot "
        f"enter {closed[0]}. Start dissmodel-platform as an ordinary user, or move PLATFORM_HOME "
        "and the installation to where others may enter, or set DATABASE_URL."
    )


def initdb_account(account: Account | None) -> Account | None:
    """Choose whom initdb runs as: an account with a name, in the server's group.

    Raises
    ------
    DatabaseError
        This machine has no name for us, or as root: for anybody else.
    """
    if account is None:
        _require_name(os.geteuid())
        return None
    named = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0]
    if not named:
        raise DatabaseError(
            "PostgreSQL's initdb needs the name of an account other than root, and this machine "
            "has none. Add `nobody` to /etc/passwd, or set DATABASE_URL."
        )
    nobody = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_name == "nobody"]
    return replace(account, uid=[*nobody, *named][0])


def hand_over(path: Path, account: Account | None) -> None:
    """Give a file, or a directory with all that is in it, to the account; follows no link."""
    if account is None:
        return
    with _refusals(account):
        for _, directories, files, descriptor in os.fwalk(path):
            for name in (*directories, *files):
                os.chown(name, account.uid, account.gid, dir_fd=descriptor, follow_symlinks=False)
        # Last, because the owner of the whole is what tells whether this has been done.
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def open_to(directory: Path, account: Account | None) -> None:
    """Keep a directory ours and let, of all others, only the account's group pass through it."""
    if account is None:
        directory.chmod(0o700)
        return
    with _refusals(account):
        os.chown(directory, 0, account.gid)
        directory.chmod(0o710)


@contextmanager
def _refusals(account: Account) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatabaseError(
            f"PostgreSQL refuses to run as root, and its files cannot be given to uid "
            f"{account.uid}: {error}. Start dissmodel-platform as an ordinary user, or set "
            "PLATFORM_HOME to a file system that keeps owners, or set DATABASE_URL."
        ) from error


def _owner(data: Path) -> tuple[int, int] | None:
    try:
        found = data.lstat()
    except FileNotFoundError:
        return None
    return None if found.st_uid == 0 else (found.st_uid, found.st_gid or found.st_uid)


def _free_ids() -> tuple[int, int]:
    for number in _SERVER_IDS:
        if not _has_name(number):
            return number, number
    raise DatabaseError(
        "PostgreSQL refuses to run as root, and every user id set aside for it is taken. Start "
        "dissmodel-platform as an ordinary user, or set DATABASE_URL."
    )


def _require_name(uid: int) -> None:
    try:
        pwd.getpwuid(uid)
    except KeyError as error:
        raise DatabaseError(
            f"PostgreSQL's initdb needs a user with a name, and uid {uid} has none. Add a line for "
            "it to /etc/passwd, or run as another user, or set DATABASE_URL."
        ) from error


def _has_name(number: int) -> bool:
    for lookup in (pwd.getpwuid, grp.getgrgid):
        with suppress(KeyError):
            lookup(number)
            return True
    return False


def _first_closed(path: Path, account: Account) -> Path | None:
    """Return the outermost place on the way to `path` that the account's numbers do not open."""
    real = path.resolve()
    for place in (*reversed(path.parents), path, *reversed(real.parents), real):
        found = place.stat()
        wanted = 0o1 if stat.S_ISDIR(found.st_mode) else 0o4
        mode = found.st_mode
        if found.st_uid == account.uid:
            mode >>= 6
        elif found.st_gid == account.gid:
            mode >>= 3
        if not mode & wanted:
            return place
    return None


def _effective_capabilities() -> int:
    if not sys.platform.startswith("linux"):  # root may do everything, but cannot pass it on
        return ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines["CapEff"].strip(), 16)


def is_private(directory: Path, uid: int) -> bool:
    """Whether a directory (no link) belongs to `uid` and is closed to all others."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == uid and stat.S_IMODE(found.st_mode) == 0o700
    )
