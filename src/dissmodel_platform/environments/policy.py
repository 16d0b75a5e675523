"""Which sources packages may come from: the operator's list, and what it says of an address.

Addresses are compared after they were taken apart, never as text, and whatever two programs might
read differently (a ``..``, a backslash, an escaped slash, a user before the host) is refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.packages import is_local, source_of
from dissmodel_platform.errors import PackageNotAllowed, SettingsError

SETTING = "PLATFORM_PACKAGE_SOURCES"
_INDEX = "index"
_ADDRESS = re.compile(
    r"(?P<scheme>git\+https?|git\+ssh|https?)://(?:(?P<user>[\w.-]+)@)?"
    r"(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])\.?(?::(?P<port>[0-9]{0,5}))?"
    r"(?P<path>/[!$-.0-;=@-\[\]^-z|~/]*)?(?P<query>\?[!-~]*)?",
    re.ASCII | re.IGNORECASE,
)
_PORTS = {"https": 443, "http": 80, "ssh": 22}
_UNSAFE = re.compile(r"[/\\%\x00-\x1f\x7f]")


@dataclass(frozen=True)
class _Place:
    """An address, taken apart."""

    scheme: str
    user: str
    host: str
    port: int
    segments: tuple[str, ...]

    @property
    def authority(self) -> str:
        """Its host, and the port if it is not that of its scheme."""
        is_usual = self.port == _PORTS[self.scheme.removeprefix("git+")]
        return self.host.strip("[]") if is_usual else f"{self.host}:{self.port}"

    def holds(self, other: _Place) -> bool:
        """Say whether another address is this one or lies below it."""
        if (self.scheme, self.user, self.host, self.port) != (
            other.scheme, other.user, other.host, other.port,
        ):  # fmt: skip
            return False
        there = other.segments[: len(self.segments)]
        if there == self.segments:
            return True
        is_repository = other.scheme.startswith("git+") and there == other.segments
        return is_repository and _bare(there) == _bare(self.segments)


@dataclass(frozen=True)
class PackagePolicy:
    """What the operator allows; made by `read`, and without a list everything.

    Attributes
    ----------
    is_limited : bool
        Whether there is a list.
    index : bool
        Whether packages by name are allowed, which the configured index has.
    places : tuple
        Addresses below which packages are allowed.
    allow_local : bool
        Whether a package may need another one that lies on the worker's own disk.
    index_hosts : tuple of str
        Hosts of the configured index, with ports where they are not the usual ones.
    """

    is_limited: bool = False
    index: bool = False
    places: tuple[_Place, ...] = ()
    allow_local: bool = False
    index_hosts: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        entries: Iterable[str],
        *,
        allow_local: bool = False,
        index_hosts: Iterable[str] = (),
    ) -> PackagePolicy:
        """Read the operator's list.

        Raises
        ------
        SettingsError
            An entry is neither ``index`` nor an address that can be compared.
        """
        listed = tuple(entries)
        places = []
        for entry in listed:
            place = _read(entry, is_entry=True)
            if place is not None:
                places.append(place)
            elif entry != _INDEX:
                raise SettingsError(
                    f"{SETTING}: {entry!r} cannot be an entry; give `index`, "
                    f"`git+https://host/organisation/`, `git+ssh://git@host/organisation/` or "
                    f"`https://host/path/`."
                )
        return cls(bool(listed), _INDEX in listed, tuple(places), allow_local, tuple(index_hosts))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of the list, with a port where it is not the usual one."""
        return tuple(dict.fromkeys(place.authority for place in self.places))

    def fault_of(self, package: str | None) -> str | None:
        """Say why a spec's ``package`` is not allowed; local sources have a setting of their own.

        Parameters
        ----------
        package : str or None
            What the spec says; nothing stands for the built-in executors.
        """
        text = (package or "").strip()
        if not self.is_limited or not text or is_local(text):
            return None
        source = source_of(text)
        if source is not None and self.allows_source(source):
            return None
        return f"Package {text!r} is not from a source that this server allows; {self._hint()}"

    def check(self, package: str | None) -> None:
        """Refuse a spec's ``package`` that is not allowed.

        Raises
        ------
        PackageNotAllowed
            It is not from a source of the list.
        """
        fault = self.fault_of(package)
        if fault is not None:
            raise PackageNotAllowed(fault)

    def check_lock(self, lock: Lock, label: str) -> None:
        """Refuse a lock with a package that is not allowed, whoever needs it.

        Parameters
        ----------
        lock : Lock
            As it was resolved.
        label : str
            How messages call the model's package.

        Raises
        ------
        PackageNotAllowed
            Names the package and where it would come from.
        """
        foreign = _first_foreign(self, lock.text) if self.is_limited else None
        if foreign is not None:
            name, source = foreign
            raise PackageNotAllowed(
                f"Package {label!r} cannot be installed: it needs {name!r} from "
                f"{source or 'a package index'}, which this server does not allow; {self._hint()}"
            )

    def allows_source(self, source: str) -> bool:
        """Say whether an address, or nothing for a package index, is allowed."""
        if not source:
            return self.index
        if source.startswith("file:"):
            return self.allow_local
        place = _read(source)
        return place is not None and any(allowed.holds(place) for allowed in self.places)

    def is_of_another_index(self, address: str) -> bool:
        """Say whether a file is from an index that a package has named, on a host of the list.

        A package may name one in its own settings (``tool.uv.index``). Builds reach the hosts of
        the list, where others than those of the list may have one as well.
        """
        place = urlsplit(address.lower())
        here = {place.netloc.rpartition("@")[2], place.hostname}
        if here & set(self.index_hosts) or not here & set(self.hosts):
            return False
        return not self.allows_source(address)

    def _hint(self) -> str:
        return f"ask its operator to list the source in {SETTING}."


EVERYTHING = PackagePolicy()
"""What counts without a list."""


@lru_cache(maxsize=256)
def _first_foreign(policy: PackagePolicy, text: str) -> tuple[str, str] | None:
    """Return name and source of a lock's first package that is not allowed; runs ask again."""
    for entry in tomllib.loads(text).get("packages", ()):
        source = _origin(entry)
        if not policy.allows_source(source):
            return str(entry.get("name")), source
        for file in () if source else (*entry.get("wheels", ()), entry.get("sdist", {})):
            address = str(file.get("url", ""))
            if policy.is_of_another_index(address):
                return str(entry.get("name")), address
    return None


def _origin(entry: dict[str, Any]) -> str:
    """Return where a package of a lock comes from; nothing: an index, by its name."""
    if "vcs" in entry:
        address = str(entry["vcs"].get("url") or "file:")
        return address if address.startswith("file:") else f"{entry['vcs'].get('type')}+{address}"
    if "archive" in entry:
        return str(entry["archive"].get("url") or "file:")
    return "file:" if "directory" in entry else ""


def _read(address: str, *, is_entry: bool = False) -> _Place | None:
    """Take an address apart; ``None`` where it is none, or may be read in two ways."""
    found = _ADDRESS.fullmatch(address.partition("#")[0])
    if found is None or (is_entry and ("#" in address or found["query"])):
        return None
    scheme = found["scheme"].lower()
    is_git = scheme.startswith("git+")
    path = found["path"] or "/"
    if is_git and found["query"]:
        return None
    # before what follows the @ is cut off: a program may resolve `..` first
    if any(map(_leads_elsewhere, path.split("/"))):
        return None
    if is_git and "@" in path:
        if is_entry:
            return None
        path = path.rpartition("@")[0]
    segments = path.removeprefix("/").removesuffix("/").split("/")
    if "" in segments and segments != [""]:
        return None
    return _Place(
        scheme,
        found["user"] or "",
        found["host"].lower(),
        int(found["port"] or _PORTS[scheme.removeprefix("git+")]),
        tuple(unquote(segment) for segment in segments if segment),
    )


def _leads_elsewhere(segment: str) -> bool:
    """Say whether a part of a path is more than a name once its escapes are read."""
    try:
        text = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return True
    return text in (".", "..") or _UNSAFE.search(text) is not None


def _bare(segments: tuple[str, ...]) -> tuple[str, ...]:
    """Return a repository's path without the ``.git`` that hosts take or leave."""
    return (*segments[:-1], segments[-1].removesuffix(".git")) if segments else segments
