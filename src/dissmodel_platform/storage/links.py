"""Signed links: a token that opens one object, to whoever has it, until a given time.

Links always point at the API itself (``/d/<token>/<file name>``), whatever holds the bytes: an
address signed by S3 is valid for one method only, and GDAL asks with HEAD before it reads.

The token is base64url, without padding, of

    version (1 byte) | expiry in seconds since 1970 (8) | SHA-256 of the content (32) | URI | MAC

where the URI is UTF-8 and the MAC (32 bytes, last) is the HMAC-SHA-256 of all that precedes it. The
URI says what was asked for, and the SHA-256 pins the content, so a link to an address whose content
has changed since opens the old content or nothing, never the new one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass
from datetime import UTC, datetime

from dissmodel_platform.errors import NotAuthorised, SettingsError
from dissmodel_platform.storage.uris import MAX_KEY_BYTES, LogicalUri
from dissmodel_platform.types import Sha256

MIN_SECRET_BYTES = 32
"""HMAC's key should be as long as its hash (RFC 2104, section 3)."""

_VERSION = 1
_HEAD = struct.Struct(">BQ32s")
_MAC_BYTES = hashlib.sha256().digest_size
_MAX_TOKEN = 2 * MAX_KEY_BYTES
_FORGED = "This link is not one of this server's, or was altered: ask GET /download for a new one."
_EXPIRED = "This link has expired: ask GET /download for a new one."


@dataclass(frozen=True, slots=True)
class Link:
    """What a link opens.

    Parameters
    ----------
    uri : LogicalUri
        The address that the link was asked for.
    sha256 : Sha256
        The content that the address stood for then.
    expires_at : datetime
        UTC, whole seconds; from this instant on the link opens nothing.
    """

    uri: LogicalUri
    sha256: Sha256
    expires_at: datetime


def sign_link(secret: bytes, uri: LogicalUri, sha256: Sha256, expires_at: datetime) -> str:
    """Make the token of a link.

    Parameters
    ----------
    secret : bytes
        The server's, at least `MIN_SECRET_BYTES` long, and used for links alone.
    uri : LogicalUri
        What the link opens.
    sha256 : Sha256
        Its content now.
    expires_at : datetime
        With a time zone; fractions of a second are cut off.

    Returns
    -------
    str
        Letters, digits, ``-`` and ``_``; about 1.33 times the URI and 100 characters.
    """
    assert expires_at.tzinfo is not None, "a time without zone means another instant elsewhere"
    head = _HEAD.pack(_VERSION, int(expires_at.timestamp()), bytes.fromhex(sha256))
    payload = head + str(uri).encode()
    return _encode(payload + _mac(secret, payload))


def read_link(secret: bytes, token: str, now: datetime) -> Link:
    """Read the token of a link.

    Parameters
    ----------
    secret : bytes
        The one that signed it.
    token : str
        As it stood in the address.
    now : datetime
        With a time zone.

    Raises
    ------
    NotAuthorised
        The token was not made with this secret, was altered, or has expired; the last in a
        sentence of its own, and only for tokens that were once good.
    """
    signed = _decode(token)
    payload, mac = signed[:-_MAC_BYTES], signed[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, payload)):
        raise NotAuthorised(_FORGED)
    version, expiry, digest = _HEAD.unpack_from(payload)  # ours, as the MAC has shown
    if version != _VERSION:
        raise NotAuthorised(_FORGED)
    if now.timestamp() >= expiry:
        raise NotAuthorised(_EXPIRED)
    bucket, _, key = payload[_HEAD.size :].decode().removeprefix("s3://").partition("/")
    return Link(LogicalUri(bucket, key), Sha256(digest.hex()), datetime.fromtimestamp(expiry, UTC))


def _mac(secret: bytes, payload: bytes) -> bytes:
    if len(secret) < MIN_SECRET_BYTES:
        raise SettingsError(f"The secret that signs links must have {MIN_SECRET_BYTES} bytes.")
    return hmac.digest(secret, b"dissmodel-platform link\0" + payload, "sha256")


def _encode(signed: bytes) -> str:
    return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()


def _decode(token: str) -> bytes:
    """Undo `_encode`; the one spelling of each token is accepted and no other."""
    if len(token) <= _MAX_TOKEN:
        try:
            padded = token.encode("ascii") + b"=" * (-len(token) % 4)
            signed = base64.b64decode(padded, altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            signed = b""
        if _encode(signed) == token and len(signed) > _MAC_BYTES:
            return signed
    raise NotAuthorised(_FORGED)
