"""What is wrong with a file of the registry: a place, a stable code, a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_PROBLEMS = 50
"""Problems that are kept for one file: a person mends a few and looks again."""

_SHOWN_CHARACTERS = 60
_SHOWN_PATH_CHARACTERS = 300

Severity = Literal["error", "warning"]
"""``error``: the file is not published; ``warning``: it is, and somebody should look at it."""


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """One thing to mend in the registry.

    Parameters
    ----------
    path : str
        Path inside the repository, printable (odd bytes are escaped).
    code : str
        Stable slug of the kind of problem, such as ``invalid-toml``.
    message : str
        One sentence that says what to change.
    line, column : int or None
        Place in the file, counted from 1; ``None`` where the file as a whole is meant.
    severity : {"error", "warning"}
        Whether the problem keeps the file from being published.
    """

    path: str
    code: str
    message: str
    line: int | None = None
    column: int | None = None
    severity: Severity = "error"

    @property
    def is_error(self) -> bool:
        """Whether the file cannot be published."""
        return self.severity == "error"


def shown(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """Quote text from a file so that it is safe and short enough to stand in a message."""
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}…"


def printable_path(path: bytes) -> str:
    """Path as text: what prints stays as it is, everything else is written as an escape.

    The result can always be encoded, so a listing that holds it stays valid JSON.
    """
    text = path.decode("utf-8", "backslashreplace")
    if len(text) > _SHOWN_PATH_CHARACTERS:
        text = text[:_SHOWN_PATH_CHARACTERS] + "…"
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
