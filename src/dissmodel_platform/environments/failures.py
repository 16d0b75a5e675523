"""Say in one sentence why a package cannot be made runnable."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dissmodel_platform.errors import (
    BuildFailed,
    EnvironmentBuildError,
    PackageNotFound,
    PackageUnreachable,
    PackageUnsatisfiable,
    PythonMismatch,
    VersionNotFound,
)


@dataclass(frozen=True)
class _Cause:
    """What the tool prints, the error it means, and what to say; ``{found}`` is its group."""

    pattern: re.Pattern[str]
    error: type[EnvironmentBuildError]
    sentence: str


def _cause(pattern: str, error: type[EnvironmentBuildError], sentence: str) -> _Cause:
    return _Cause(re.compile(pattern, re.IGNORECASE), error, sentence)


_NO_REPOSITORY = (
    "its git repository is not found or not readable from this server; check the address in the "
    "spec's `package`."
)

# The first that matches counts: what is said of a repository and of the network before what is said
# of versions, since uv reports "failed to fetch tag" whatever the reason was.
_CAUSES = (
    _cause(
        r"No space left on device|Disk quota exceeded",
        BuildFailed,
        "the worker's disk is full; free space on it, then submit it again.",
    ),
    _cause(
        r"host key verification failed|no \S+ host key is known",
        PackageNotFound,
        "the ssh host of its repository is not known here; compare its key with the one that its "
        "operator publishes, and add it to the worker's known_hosts "
        "(PLATFORM_PACKAGE_KNOWN_HOSTS).",
    ),
    _cause(
        r"Permission denied \(",
        PackageNotFound,
        "its ssh host takes none of the worker's keys; name one that it takes in "
        "PLATFORM_PACKAGE_SSH_KEY, or add it to the worker's ssh agent.",
    ),
    _cause(
        r"(a source over ssh that is not the model's own package: [^;]*; [^.]*\.?)",
        PackageNotFound,
        "it asks for {found}.",
    ),
    _cause(
        r"does not appear to be a git repository|repository (?:\S+ )?not found|"
        r"not found in upstream|could not read Username|Authentication failed",
        PackageNotFound,
        _NO_REPOSITORY,
    ),
    _cause(
        r"error sending request|dns error|Connection refused|Could not resolve host|timed out|"
        r"Failed to connect|Network is unreachable|HTTP status server error|Connection reset",
        PackageUnreachable,
        "the package index or git host cannot be reached from this server; submit it again when "
        "the network is back.",
    ),
    _cause(r"Could not read from remote repository", PackageNotFound, _NO_REPOSITORY),
    _cause(
        r"Hash mismatch for `([^`]+)`",
        BuildFailed,
        "a file of {found} is not the one that was named (its hash differs); name the right hash, "
        "or ask whoever publishes it why a published file has changed.",
    ),
    _cause(
        r"Because (\S+) has an invalid package format",
        BuildFailed,
        "the file of {found} in the index is broken; ask whoever publishes it to mend it, or name "
        "another version.",
    ),
    _cause(
        r"couldn't find remote ref|failed to find (?:branch|tag|rev|commit)|"
        r"failed to fetch (?:branch|tag|commit|branch or tag)|revspec .* not found",
        VersionNotFound,
        "its repository has no such version (tag, branch or commit); check what follows the @ in "
        "the spec's `package`, and that the tag was pushed.",
    ),
    _cause(
        r"(\S+) was not found in the (?:package registry|provided package locations)",
        PackageNotFound,
        "{found} is not found in the package index; check its spelling and that it has been "
        "published.",
    ),
    _cause(
        r"HTTP status client error|has no subdirectory|Distribution not found at|"
        r"does not appear to be a Python project",
        PackageNotFound,
        "there is no Python package at that address ({last_line}); correct the spec's `package`.",
    ),
    _cause(
        r"requested Python version|does not satisfy Python[<>=]|depends on Python[<>=]|"
        r"current Python version|no wheels? with a matching Python",
        PythonMismatch,
        "no matching Python: it does not support the Python of this server; widen "
        "`requires-python` in the package, or run a worker with the Python it needs.",
    ),
    _cause(
        r"there (?:is|are) no versions? of (\S+)|"
        r"cause: Because only \S+ is available and you require (\S+?[<>=!~]\S*)",
        VersionNotFound,
        "there is no such version ({found}) in the package index; name a published one.",
    ),
    _cause(
        r"unsatisfiable|No solution found",
        PackageUnsatisfiable,
        "its requirements contradict each other: {explanation}",
    ),
)
_BUILD_FAILED = (
    "its build failed: {last_line}. Install it on your own machine with `pip install` to see and "
    "mend the fault."
)
# How Python and compilers begin the line that says why.
_REASON = re.compile(r"[\w.]+(?:Error|Exception)\b|\S+: (?:fatal )?error: ")


def explain(package: str, output: str) -> EnvironmentBuildError:
    """Translate what ``uv`` printed into the error of that cause.

    Parameters
    ----------
    package : str
        What the spec asks for, as the message should name it.
    output : str
        Last lines that the tool printed; kept as the error's ``output_tail``.
    """
    words = " ".join(output.split())
    for cause in _CAUSES:
        match = cause.pattern.search(words)
        if match is not None:
            found = next((group for group in match.groups() if group), "").rstrip(",.")
            sentence = cause.sentence.format(
                found=found, explanation=_explanation(output), last_line=_last_line(output)
            )
            return cause.error(f"Package {package!r} cannot be installed: {sentence}", output)
    sentence = _BUILD_FAILED.format(last_line=_last_line(output))
    return BuildFailed(f"Package {package!r} cannot be installed: {sentence}", output)


def _lines(output: str) -> list[str]:
    """Return the lines before the tool's hints, without its own prefixes."""
    told = re.split(r"^hint:", output, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip().removeprefix("cause:").strip() for line in told.splitlines()]
    return [line for line in lines if line]


def _explanation(output: str) -> str:
    """Return the resolver's own explanation as one line."""
    return " ".join(line for line in _lines(output) if not line.startswith("error:"))


def _last_line(output: str) -> str:
    """Return the line that says why a build failed: the last error, else the last line."""
    lines = _lines(output) or ["the tool printed nothing"]
    reasons = [line for line in lines if _REASON.match(line)]
    return (reasons or lines)[-1].removeprefix("error:").strip().rstrip(".")
