"""``python -m benchmarks``: run every benchmark and print one table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks import environments, registry, warm_run
from benchmarks.figures import Figure


def main() -> None:
    """Measure and print."""
    figures: list[Figure] = [
        *registry.measure(),
        *environments.measure(),
        *warm_run.measure(),
    ]
    table = Table("what", "measured", "budget", "yardstick in the same run", box=None)
    for figure in figures:
        table.add_row(figure.what, figure.measured, figure.budget, figure.yardstick)
    Console(width=150).print(table)


main()
