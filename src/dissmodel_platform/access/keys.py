"""API keys: the operator's own, or one that is made at the first start."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dissmodel_platform.errors import NotAuthenticated, NotAuthorised, SettingsError

_KEY_BYTES = 32


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    RUN = "run"
    RUN_INLINE = "run:inline"
    DATA = "data"
    ADMIN = "admin"


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes
    ----------
    name : str
        Stable name of the key, safe to store; never the secret.
    scopes : frozenset of Scope
        What the key allows.
    """

    name: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Refuse the request unless the key allows it.

        Raises
        ------
        NotAuthorised
            Names the scope that is missing.
        """
        if scope not in self.scopes:
            raise NotAuthorised(
                f"This key does not allow {scope.value!r}; ask the operator for one that does."
            )


class Keyring:
    """The keys that the API accepts, kept as hashes.

    Parameters
    ----------
    secrets_ : iterable of str
        Each is a key with every scope.
    """

    def __init__(self, secrets_: Iterable[str]) -> None:
        self._digests = tuple(_digest(secret) for secret in secrets_)

    def identify(self, secret: str | None) -> Caller:
        """Return whose key this is; every known key is compared, in constant time.

        Raises
        ------
        NotAuthenticated
            No key was given, or one that is not known.
        """
        if not secret:
            raise NotAuthenticated(
                "This needs an API key: send it in the header X-API-Key (the server prints at its "
                "start where the key is kept)."
            )
        given = _digest(secret)
        known = [hmac.compare_digest(given, digest) for digest in self._digests]
        if not any(known):
            raise NotAuthenticated("This API key is not known here; check X-API-Key.")
        return Caller(f"key-{given.hex()[:8]}", frozenset(Scope))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def read_or_make_key(path: Path) -> str:
    """Return the key kept in a file, making it (mode 0600) if it is not there.

    Processes that start together agree on one key: the file appears whole, under its final name,
    once.

    Raises
    ------
    SettingsError
        The file is there and holds no key.
    """
    try:
        return _read_key(path)
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(_KEY_BYTES) + "\n")
        with contextlib.suppress(FileExistsError):  # another process was first; its key counts
            os.link(unfinished, path)
    finally:
        unfinished.unlink()
    return _read_key(path)


def _read_key(path: Path) -> str:
    key = path.read_text().strip()
    if not key:
        raise SettingsError(f"The key file {path} is empty; remove it, and a new key is made.")
    return key
