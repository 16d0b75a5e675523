"""Why a git command failed, told from what git prints, and what an operator does about it."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from dissmodel_platform.errors import GitError

_TAIL_LINES = 20
_TAIL_CHARACTERS = 4_000


class GitFault(StrEnum):
    """Kind of a git failure; a stable slug for records and metrics."""

    UNREACHABLE = "unreachable"
    TLS = "tls"
    AUTHENTICATION = "authentication"
    HOST_KEY = "host-key"
    NOT_FOUND = "repository-not-found"
    EMPTY = "repository-empty"
    SHALLOW = "repository-shallow"
    NO_BRANCH = "branch-not-found"
    TRANSPORT = "transport-not-allowed"
    OWNERSHIP = "ownership"
    REFUSED_OBJECT = "refused-object"
    TOO_LARGE = "too-large"
    DISK_FULL = "disk-full"
    LOCKED = "locked"
    CORRUPT = "mirror-corrupt"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    MISSING = "git-missing"
    OTHER = "other"


REMOTE_FAULTS = frozenset(
    {
        GitFault.UNREACHABLE,
        GitFault.TLS,
        GitFault.AUTHENTICATION,
        GitFault.HOST_KEY,
        GitFault.NOT_FOUND,
        GitFault.EMPTY,
        GitFault.SHALLOW,
        GitFault.NO_BRANCH,
        GitFault.TRANSPORT,
        GitFault.OWNERSHIP,
        GitFault.REFUSED_OBJECT,
        GitFault.TOO_LARGE,
        GitFault.DISK_FULL,
        GitFault.TIMEOUT,
        GitFault.INTERRUPTED,
        GitFault.MISSING,
    }
)
"""Faults that say nothing against the mirror: cloning it anew would not help."""


class GitFailed(GitError):
    """A git command failed; ``fault`` says in which way.

    Parameters
    ----------
    fault : GitFault
        Kind of failure.
    message : str
        What was attempted and what to do.
    command : sequence of str
        The argument list, secrets redacted.
    exit_code : int or None
        ``None`` where the command did not end by itself, or no command was run.
    stderr_tail : str
        Last lines of what git printed, secrets redacted.
    """

    def __init__(
        self,
        fault: GitFault,
        message: str,
        *,
        command: Sequence[str] = (),
        exit_code: int | None = None,
        stderr_tail: str = "",
    ) -> None:
        super().__init__(message, command=command, exit_code=exit_code, stderr_tail=stderr_tail)
        self.fault = fault


# The first that matches counts: causes before the consequences that git prints after them.
_SIGNS: tuple[tuple[GitFault, str], ...] = (
    (GitFault.DISK_FULL, r"no space left on device|disk quota exceeded"),
    (
        GitFault.TOO_LARGE,
        r"file too large|died of signal 25|file size limit exceeded|"
        r"out of memory|cannot allocate memory",
    ),
    (GitFault.LOCKED, r"\.lock': file exists|unable to lock|cannot lock ref"),
    (GitFault.TRANSPORT, r"transport '[^']*' not allowed"),
    (GitFault.HOST_KEY, r"host key verification failed|no .* host key is known"),
    (
        GitFault.AUTHENTICATION,
        r"authentication failed|could not read (?:username|password)|permission denied \(|"
        r"returned error: 40[13]|access denied|invalid credentials",
    ),
    (GitFault.OTHER, r": permission denied$|read-only file system|operation not permitted"),
    (GitFault.OWNERSHIP, r"dubious ownership"),
    (GitFault.SHALLOW, r"shallow (?:roots|update) (?:are )?not allowed"),
    (GitFault.NO_BRANCH, r"couldn't find remote ref|remote branch .* not found"),
    (
        GitFault.TLS,
        r"certificate|ssl (?:connect|peer)|gnutls_handshake|tls handshake|unable to set.*ca",
    ),
    (
        GitFault.UNREACHABLE,
        r"could not resolve|failed to connect|couldn't connect|connection (?:refused|timed out|"
        r"reset|closed)|network is unreachable|no route to host|operation (?:timed out|too slow)|"
        r"name or service not known|temporary failure in name resolution|returned error: 5\d\d|"
        r"could not resolve proxy|empty reply",
    ),
    (GitFault.REFUSED_OBJECT, r"fsck error|error: object [0-9a-f]+: \w+:"),
    (
        GitFault.NOT_FOUND,
        r"repository '[^']*' not found|repository not found|does not appear to be a git repo|"
        r"returned error: 404|no such file or directory|'[^']*' does not exist",
    ),
    (
        GitFault.UNREACHABLE,
        r"hung up unexpectedly|early eof|rpc failed|could not read from remote repository|"
        r"unable to access|unexpected disconnect",
    ),
    (
        GitFault.CORRUPT,
        r"corrupt|bad object|not a git repository|not a valid object|object file .* is empty|"
        r"invalid sha1 pointer|unable to read|packfile|bad config|inflate|missing (?:blob|tree|"
        r"commit)|unable to parse|could not parse|bad (?:tree|commit) |unexpected line in|"
        r"bad signature|index file|unknown repository|no such ref|could not read",
    ),
)
_COMPILED = tuple(
    (fault, re.compile(pattern, re.IGNORECASE | re.MULTILINE)) for fault, pattern in _SIGNS
)

ADVICE: dict[GitFault, str] = {
    GitFault.UNREACHABLE: "The registry's host cannot be reached; check the network, the proxy "
    "and the address, the next sync tries again",
    GitFault.TLS: "The registry's certificate is not trusted; point SSL_CERT_FILE to the "
    "authority that signed it",
    GitFault.AUTHENTICATION: "The registry refused our credentials; check the token or the SSH "
    "key, and that it may read the repository",
    GitFault.HOST_KEY: "The SSH host's key is not known; add it to the known hosts file after "
    "comparing it with the one that the host publishes",
    GitFault.NOT_FOUND: "There is no git repository at the registry's address; check CONFIGS_REPO "
    "(private ones look the same without a token)",
    GitFault.EMPTY: "The registry's repository has no commit yet; push a first one",
    GitFault.SHALLOW: "The registry is a shallow copy (git clone --depth) and lacks its own "
    "history; run 'git fetch --unshallow' in it, or name the repository that it is a copy of",
    GitFault.NO_BRANCH: "The registry has no such branch; check CONFIGS_BRANCH",
    GitFault.TRANSPORT: "The registry's address leads to a transport that is not allowed; use "
    "https or ssh",
    GitFault.OWNERSHIP: "The local registry belongs to another user than git accepts; change its "
    "owner",
    GitFault.REFUSED_OBJECT: "The registry holds a malformed git object, and nothing was taken "
    "over; run 'git fsck' on it",
    GitFault.TOO_LARGE: "The registry is larger than this server accepts; remove what is no "
    "model, also from its history",
    GitFault.DISK_FULL: "The disk is full; free some space, the next sync goes on from here",
    GitFault.LOCKED: "Another git process works on the mirror; the next sync tries again",
    GitFault.CORRUPT: "The mirror of the registry is damaged; it has to be cloned anew",
    GitFault.TIMEOUT: "git did not finish in time; check the network, the next sync tries again",
    GitFault.INTERRUPTED: "git was stopped because the server is shutting down",
    GitFault.MISSING: "git cannot be started; install git 2.32 or newer",
    GitFault.OTHER: "git failed; its last lines say why",
}


def advice_in(message: str) -> str | None:
    """Return the advice that a failure's message begins with: its kind, without what git said."""
    return next((advice for advice in ADVICE.values() if message.startswith(advice)), None)


_LOCAL_FAULTS = frozenset({GitFault.DISK_FULL, GitFault.TOO_LARGE, GitFault.LOCKED, GitFault.OTHER})


def classify(stderr: str, *, network: bool) -> GitFault:
    """Tell the kind of a failure from git's messages (in English: ``LC_ALL=C``).

    Parameters
    ----------
    stderr : str
        What git printed.
    network : bool
        Whether the command talked to the remote. One that did not has a local fault: the disk's,
        a lock's, or else the mirror's.
    """
    for fault, pattern in _COMPILED:
        if (network or fault in _LOCAL_FAULTS) and pattern.search(stderr):
            return fault
    return GitFault.OTHER if network else GitFault.CORRUPT


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a failure to write beside the mirror into a ``GitFailed``."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fault = GitFault.DISK_FULL if full else GitFault.OTHER
        advice = ADVICE[fault] if full else "The registry's mirror cannot be written"
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise GitFailed(fault, f"{advice} ({what}).") from error


def tail(text: str) -> str:
    """Return the last lines of an output, bounded."""
    return "\n".join(text.rstrip().splitlines()[-_TAIL_LINES:])[-_TAIL_CHARACTERS:]


_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_AUTHORIZATION = re.compile(r"(?i)(authorization:\s*\w+\s+)\S+")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Remove secrets, and whatever stands before an ``@`` in a URL."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _AUTHORIZATION.sub(r"\1***", _USERINFO.sub("***@", text))
