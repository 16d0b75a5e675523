"""Listings: a table on a terminal, tab-separated lines without a heading in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dissmodel_platform.cli.echo import echo, printable


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print one line for each row; in a pipe each cell stays on its line and whole.

    Control characters are written as escapes.
    """
    if not sys.stdout.isatty():
        for row in rows:
            echo("\t".join(" ".join(cell.split()) for cell in row))
        return
    table = Table(*headings, box=None)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)
