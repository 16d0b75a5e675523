"""Nearest known names, for a hint beside a name that is not known."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

MOST_CANDIDATES = 1_000
"""Names that one is compared with: looking for a hint may not cost far more than refusing."""

LONGEST_NAME = 100
"""Characters of a name that are looked at."""

_COMPARED_CLOSELY = 50


def nearest_names(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> list[str]:
    """Return up to three known names that look like a misspelt one, the nearest first.

    Of very many names, those of nearly the same length and letters are looked at.

    Parameters
    ----------
    cutoff : float
        How alike they must be, from 0 (not at all) to 1 (the same).
    """
    name = name[:LONGEST_NAME]
    its_letters = str.maketrans("", "", name)
    candidates = heapq.nsmallest(
        MOST_CANDIDATES,
        (candidate[:LONGEST_NAME] for candidate in known),
        key=lambda candidate: (
            len(candidate.translate(its_letters)) + abs(len(candidate) - len(name))
        ),
    )
    matcher = SequenceMatcher(b=name)

    def letters_in_common(candidate: str) -> float:
        matcher.set_seq1(candidate)
        return matcher.quick_ratio()

    # comparing closely takes ten times as long as counting letters
    alike = heapq.nlargest(_COMPARED_CLOSELY, candidates, key=letters_in_common)
    return get_close_matches(name, alike, n=3, cutoff=cutoff)
