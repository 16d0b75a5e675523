"""The registry's address: which ones are taken, and why the others are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from dissmodel_platform.errors import SettingsError

Transport = Literal["https", "ssh", "file"]
"""How git reaches the remote; no other transport of git's is ever enabled."""

_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SCP_LIKE = re.compile(r"(?:([^@/:]+)@)?([^@/:]+):(?!//)(.+)")
_BRANCH_REFUSED = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^\.|\.lock(?:/|$)|[/.]$|^[-/]|^@$"
)


@dataclass(frozen=True)
class Remote:
    """A checked address.

    Parameters
    ----------
    url : str
        What git is given; holds no secret and cannot be taken for an option.
    transport : {"https", "ssh", "file"}
        How git reaches it.
    host : str
        Host, with the port if one is given; empty for a local repository.
    path : Path or None
        Directory of a local repository.
    """

    url: str
    transport: Transport
    host: str = ""
    path: Path | None = None


def parse_remote(address: str, *, allow_local: bool) -> Remote:
    """Check the address of a registry.

    Parameters
    ----------
    address : str
        ``https://host/path``, ``ssh://user@host/path``, ``user@host:path`` or, where allowed, an
        absolute path or ``file:///path``.
    allow_local : bool
        Whether a directory of this machine may be the registry.

    Raises
    ------
    SettingsError
        The address is none of these, holds a secret, or would be an option or another transport.
    """
    address = address.strip()
    if not address:
        raise _refused("is empty; give the address of the registry's git repository")
    if not unquote(address).isprintable() or " " in address or "\\" in address:
        raise _refused("holds a blank, a backslash or a control character")
    if address.startswith("-"):
        raise _refused("starts with '-', which git would take for an option")
    if "::" in address.partition("/")[0].partition("[")[0]:
        raise _refused("names a remote helper of git (…::…); only https, ssh and local ones work")
    if address.startswith(("/", "file://")):
        return _local(address, allow_local=allow_local)
    if "://" in address:
        return _url(address)
    scp = _SCP_LIKE.fullmatch(address)
    if scp is None:
        raise _refused("is neither an https or ssh address nor an absolute path")
    user, host, path = scp.groups()
    _check_host(host)
    if user is None and host in ("file", "http", "https", "ssh", "git"):
        raise _refused(f"lacks the slashes after '{host}:'")
    if (user is not None and not _USER.fullmatch(user)) or path.startswith("-"):
        raise _refused("is not of the form user@host:path")
    return Remote(address, "ssh", host)


def check_branch(branch: str) -> str:
    """Check a branch's name against git's rules (``git check-ref-format``) and return it.

    Raises
    ------
    SettingsError
        No branch can have this name.
    """
    if not branch or len(branch) > 200 or _BRANCH_REFUSED.search(branch):
        raise SettingsError(
            f"CONFIGS_BRANCH {branch[:80]!r} cannot be a branch's name; give it as in 'main', or "
            "leave it out for the remote's default branch."
        )
    return branch


def file_url(path: Path) -> str:
    """Address of a local repository; ``%`` is all that git decodes in one."""
    return "file://" + str(path).replace("%", "%25")


def _url(address: str) -> Remote:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise _refused("is not a valid URL") from error
    if parts.scheme not in ("https", "ssh"):
        raise _refused(f"uses {parts.scheme[:20]!r}; only https, ssh and local repositories work")
    if parts.query or parts.fragment or "?" in address or "#" in address:
        raise _refused("holds '?' or '#', which may hide a secret")
    user, at, host_and_port = parts.netloc.rpartition("@")
    if parts.scheme == "https" and at:
        raise _refused("holds a user name or secret; give the token in its own setting")
    if at and not _USER.fullmatch(user):
        raise _refused("holds a password, or a user name that ssh would not take")
    host = host_and_port.removesuffix(f":{port}") if port is not None else host_and_port
    _check_host(host)
    if len(parts.path) < 2 or parts.path.startswith("/-"):
        raise _refused("names a host but no repository")
    return Remote(address, "https" if parts.scheme == "https" else "ssh", host_and_port)


def _local(address: str, *, allow_local: bool) -> Remote:
    if not allow_local:
        raise _refused(
            "is a directory of this machine; set PLATFORM_ALLOW_LOCAL_REGISTRY=true to allow that"
        )
    if address.startswith("file://") and not address.startswith("file:///"):
        raise _refused("names a host; a local repository is file:///path or /path")
    path = unquote(address.removeprefix("file://")) if address.startswith("file:") else address
    if ".." in Path(path).parts:
        raise _refused("holds '..'; give the plain path")
    return Remote(file_url(Path(path)), "file", "", Path(path))


def _check_host(host: str) -> None:
    if not _HOST.fullmatch(host):
        raise _refused("holds no valid host name")


def _refused(why: str) -> SettingsError:
    # The address itself is not repeated: it may hold the secret that it is refused for.
    return SettingsError(f"The registry's address (CONFIGS_REPO) {why}.")
