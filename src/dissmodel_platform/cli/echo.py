"""Printing what others wrote: text of a server, a registry or a model never steers the terminal."""

from __future__ import annotations

import unicodedata

import typer

# Controls, invisible signs (some turn the writing direction), half characters, separators.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""Return a text whose control and invisible characters are written as escapes (``\x1b``).

    Line ends and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character not in "\n\t" and unicodedata.category(character) in _ESCAPED_CATEGORIES
        else character
        for character in text
    )


def echo(text: object, *, err: bool = False) -> None:
    """Print a line, to standard error if asked to."""
    typer.echo(printable(str(text)), err=err)
