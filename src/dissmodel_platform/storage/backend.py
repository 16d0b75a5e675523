"""The place that holds the bytes: a directory, or a bucket reached through obstore.

Facts about obstore's local store that this module answers (tried with 0.12): it follows symbolic
links, creates directories with the default mode, and keeps an unfinished file beside its name with
``#1`` at the end, which a listing hides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url
from obstore.store import ObjectStore as RawStore

from dissmodel_platform.errors import ObjectNotFound, SettingsError, StorageError

BLOBS = "blobs"
INCOMING = "incoming"

_BUCKET_SCHEMES = frozenset({"s3", "gs", "az"})
_RETRY = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
# The total limit covers the copy of a large object inside the store; one read or write of ours
# moves a few megabytes, so two minutes without a byte mean a dead connection. Plain HTTP is used
# for an endpoint that the operator wrote with http://, and for no other; obstore ignores
# AWS_ALLOW_HTTP once it is given options.
_CLIENT = {"connect_timeout": "10s", "read_timeout": "2min", "timeout": "15min", "allow_http": True}


@dataclass(frozen=True, slots=True)
class Backend:
    """An opened place for bytes.

    Parameters
    ----------
    store : obstore's store
        What reads and writes.
    shown : str
        How messages call it; holds no secret.
    directory : Path or None
        The directory, where it is one.
    """

    store: RawStore
    shown: str
    directory: Path | None

    def guard(self, key: str) -> None:
        """Refuse a link, a device or a directory on the way to `key` of a directory store.

        The directory is private, so a link in it is damage or an attack; obstore would follow it.
        """
        if self.directory is None:
            return
        *parents, name = key.split("/")
        place = self.directory
        for parent in parents:
            place /= parent
            _refuse_unless(place, stat.S_ISDIR, "a directory")
        _refuse_unless(place / name, stat.S_ISREG, "an ordinary file")

    async def remove_stale_incoming(self, older_than_seconds: float) -> int:
        """Delete what broken-off uploads left; returns how many objects that were."""
        if self.directory is not None:
            incoming = self.directory / INCOMING
            return await asyncio.to_thread(_remove_old_files, incoming, older_than_seconds)
        oldest = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        stale: list[str] = []
        with translated(f"list what was left in {self.shown}"):
            async for objects in obstore.list(self.store, INCOMING):
                stale += [meta["path"] for meta in objects if meta["last_modified"] < oldest]
            if stale:
                await obstore.delete_async(self.store, stale)
        return len(stale)


def open_backend(url: str | None, directory: Path) -> Backend:
    """Open the place that `url` names, or `directory` where it names none.

    Parameters
    ----------
    url : str or None
        ``file:///absolute/directory``, ``s3://bucket/prefix``, ``gs://bucket/prefix`` or
        ``az://container/prefix``. What a bucket needs beside its name comes from the
        variables that its own tools read (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``,
        ``AWS_REGION``, ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME``, …).
    directory : Path
        Made with mode 0700 when it is used and not there.

    Raises
    ------
    SettingsError
        ``STORAGE_URL`` is not of one of these forms.
    StorageError
        The directory cannot be made, or is not a private one.
    """
    if not url:
        return _open_directory(directory)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SettingsError(f"STORAGE_URL is not an address: {error}.") from error
    if parts.username or parts.password:
        raise SettingsError(
            "STORAGE_URL holds credentials; give them in the store's own variables instead "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …)."
        )
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        return _open_directory(Path(url2pathname(parts.path)))
    if parts.scheme not in _BUCKET_SCHEMES or not parts.netloc:
        raise SettingsError(
            "STORAGE_URL must be file:///directory, s3://bucket/prefix, gs://bucket/prefix or "
            f"az://container/prefix, not {url!r}."
        )
    return Backend(open_bucket(url), url, None)


def open_bucket(url: str) -> RawStore:
    """Open a bucket, with what its own tools read from the environment; nothing is asked of it yet.

    Raises
    ------
    SettingsError
        The variables do not fit together.
    """
    try:
        return from_url(url, client_options=_CLIENT, retry_config=_RETRY)  # type: ignore[call-overload, no-any-return]
    except (BaseError, ValueError, OSError) as error:
        raise SettingsError(
            f"The bucket {url!r} cannot be used: {first_line(error)} See its tools' variables "
            f"(AWS_ENDPOINT_URL, AWS_REGION, …)."
        ) from error


@contextlib.contextmanager
def translated(doing: str, *, reading: bool = False) -> Iterator[None]:
    """Turn what obstore raises into this package's errors; `doing` completes "cannot …".

    Parameters
    ----------
    doing : str
        What is attempted.
    reading : bool, optional
        Whether "not found" means the object; where one is written it means the bucket.
    """
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        if reading and isinstance(error, FileNotFoundError):
            raise ObjectNotFound(
                f"The object store cannot {doing}: it holds nothing under that address."
            ) from error
        raise StorageError(f"The object store cannot {doing}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return what an error says, without the dump of its internals that obstore appends."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:400]


def _open_directory(directory: Path) -> Backend:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The directory itself may be a link, say to a larger disk; what is in it may not.
        directory = directory.resolve(strict=True)
        for name in (BLOBS, INCOMING):
            (directory / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The object directory {directory} cannot be made: {error.strerror}. "
            "Choose another with PLATFORM_HOME or STORAGE_URL."
        ) from error
    backend = Backend(LocalStore(directory), str(directory), directory)
    check_directory(directory)
    return backend


def check_directory(directory: Path) -> None:
    """See that a directory store is private, of one piece and writable.

    Raises
    ------
    StorageError
        It is gone, others may write to it, or a part of it is a link.
    """
    for place in (directory, directory / BLOBS, directory / INCOMING):
        _refuse_unless(place, stat.S_ISDIR, "a directory")
        if not place.exists():
            raise StorageError(f"{place} is gone; put it back, or restart to begin a new store.")
        if place.stat().st_mode & 0o022:
            raise StorageError(
                f"{place} can be written to by other users; take that right away (chmod go-w)."
            )
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise StorageError(f"{place} cannot be written to by this user; change its owner.")


def _refuse_unless(place: Path, is_right: Callable[[int], bool], right: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # what is not there leads nowhere
        if not is_right(place.lstat().st_mode):
            raise StorageError(
                f"{place} in the object directory is not {right}; remove it, and find out who put "
                "it there."
            )


def _remove_old_files(directory: Path, older_than_seconds: float) -> int:
    oldest, removed = time.time() - older_than_seconds, 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another worker's cleaning, or a late rename
            if path.lstat().st_mtime < oldest:
                path.unlink()
                removed += 1
    return removed
