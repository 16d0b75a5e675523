"""``models``: what can be run."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from dissmodel_platform.cli.connection import DEFAULT_URL, AsJson, Key, Url, connect
from dissmodel_platform.cli.tables import print_table

app = typer.Typer()


@app.command("models")
def models(
    name: Annotated[str | None, typer.Argument(help="Show one model.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the models that can be run, or show one.

    Example: dissmodel-platform models flood_vector
    """
    with connect(url, key) as platform:
        if name is not None:
            typer.echo(json.dumps(platform.model(name), indent=2))
            return
        found = platform.models()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    print_table(("model", "description", "package", "environment"), map(_row, found))


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    state = model["environment"]["state"] + (" (stale)" if model["stale"] else "")
    return model["name"], model["description"], model["package"] or "built-in", state
