"""What the remote serves now: one round trip, nothing fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from dissmodel_platform.registry.git import Git
from dissmodel_platform.registry.git_faults import ADVICE, GitFailed, GitFault
from dissmodel_platform.types import Revision

_HEADS = "refs/heads/"
_ADVERTISED = re.compile(r"([0-9a-f]{40}(?:[0-9a-f]{24})?)\t(\S+)")
_SYMBOLIC = re.compile(r"ref: (refs/heads/\S+)\tHEAD")


@dataclass(frozen=True, slots=True)
class RemoteHead:
    """The commit that the remote's branch names.

    Parameters
    ----------
    ref : str
        Full name (``refs/heads/main``); ``HEAD`` where the remote does not say what its HEAD is.
    revision : Revision
        The commit.
    """

    ref: str
    revision: Revision


def read_remote_head(git: Git, branch: str | None, *, timeout_seconds: float) -> RemoteHead:
    """Ask the remote where its branch is.

    Parameters
    ----------
    git : Git
        Runner that knows the remote.
    branch : str or None
        The branch; ``None``: the one that the remote's HEAD names.
    timeout_seconds : float
        Limit of each round trip.

    Raises
    ------
    GitFailed
        The remote cannot be reached, is empty, or has no such branch (which names those it has).
    """
    url = git.access.remote.url
    wanted = "HEAD" if branch is None else _HEADS + branch
    output = git.run(
        "ls-remote", "--symref", "--", url, wanted, network=True, timeout_seconds=timeout_seconds
    ).text
    # A pattern also matches the end of a longer name, so the name is compared again.
    advertised = {name: oid for oid, name in _ADVERTISED.findall(output)}
    if wanted in advertised:
        symbolic = _SYMBOLIC.search(output)
        ref = symbolic[1] if branch is None and symbolic else wanted
        return RemoteHead(ref, Revision(advertised[wanted]))
    heads = git.run(
        "ls-remote", "--heads", "--", url, network=True, timeout_seconds=timeout_seconds
    ).text
    branches = sorted(name.removeprefix(_HEADS) for _, name in _ADVERTISED.findall(heads))
    raise _missing(branch, branches)


def _missing(branch: str | None, branches: list[str]) -> GitFailed:
    if not branches:
        return GitFailed(GitFault.EMPTY, f"{ADVICE[GitFault.EMPTY]}.")
    if branch is None:
        message = "The registry's default branch (its HEAD) does not exist; set CONFIGS_BRANCH"
    else:
        message = f"The registry has no branch {branch!r}; check CONFIGS_BRANCH"
    near = get_close_matches(branch or "main", branches, n=3, cutoff=0.5) or branches[:3]
    return GitFailed(GitFault.NO_BRANCH, f"{message}. It has {', '.join(map(repr, near))}.")
