"""``registry init``: a repository that can be pushed and used as a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dissmodel_platform.services.new_registry import make_registry


def init(
    directory: Annotated[Path, typer.Argument(help="Where; must not exist, or be empty.")],
) -> None:
    """Make a registry from the template: a git repository whose pull requests are checked.

    Example: dissmodel-platform registry init dissmodel-configs
    """
    make_registry(directory)
    typer.echo(f"Made the registry {directory}. Next:")
    typer.echo(f"  dissmodel-platform registry check {directory}")
    typer.echo("  push it, protect its branch, and require the check `Check models`")
    typer.echo("  set CONFIGS_REPO to its address where the platform runs")
