"""``models``: what can be run, and what it is made of."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dissmodel_platform.cli.connection import DEFAULT_URL, AsJson, Key, Url, connect
from dissmodel_platform.cli.echo import echo
from dissmodel_platform.cli.tables import print_table
from dissmodel_platform.errors import ClientError

_POLL_SECONDS = 0.5


class _ModelsGroup(TyperGroup):
    """Takes ``models`` and ``models NAME`` for ``models show``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        is_command = first in self.commands or first in ctx.help_option_names
        return super().parse_args(ctx, args if is_command else ["show", *args])


app = typer.Typer(cls=_ModelsGroup)

Name = Annotated[str, typer.Argument(help="Name in the registry.", show_default=False)]
Commit = Annotated[
    str | None,
    typer.Option(help="A published commit of the registry.", show_default="the newest"),
]


@app.callback()
def models() -> None:
    """List the models that can be run, or show one; its lock, too.

    `models NAME` is short for `models show NAME`.

    Example: dissmodel-platform models flood_vector
    """


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="Show one model.", show_default="all of them")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the models that can be run, or show one.

    Example: dissmodel-platform models show flood_vector
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


@app.command()
def lock(
    name: Name,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the lock file itself (pylock.toml).")
    ] = False,
    commit: Commit = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show the packages that a model's runs are made of.

    Example: dissmodel-platform models lock flood_vector --toml > pylock.flood_vector.toml
    """
    with connect(url, key) as platform:
        if toml:
            echo(platform.lock_file(name, commit=commit).removesuffix("\n"))
            return
        found = platform.lock(name, commit=commit)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    echo(f"lock {found['sha256']} of {found['created_at']}", err=True)
    print_table(("package", "version", "from", "built"), map(_package_row, found["packages"]))


@app.command()
def relock(
    name: Name,
    commit: Commit = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a new lock of a model, and say which packages changed.

    It counts for later runs; experiments keep the lock that they used.

    Example: dissmodel-platform models relock flood_vector
    """
    with connect(url, key) as platform:
        found = platform.relock(name, commit=commit)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    echo(found["message"], err=True)
    rows = [(p["name"], "", _version(p)) for p in found["added"]]
    rows += [(p["name"], _version(p), "") for p in found["removed"]]
    rows += [(p["name"], _version(p["from"]), _version(p["to"])) for p in found["changed"]]
    if rows:
        print_table(("package", "from", "to"), rows)


@app.command()
def build(
    name: Name,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for its end.")] = False,
    commit: Commit = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Build a model's environment now, also where that failed before.

    Example: dissmodel-platform models build flood_vector
    """
    with connect(url, key) as platform:
        asked = platform.build(name, commit=commit)
        echo(asked["message"], err=True)
        environment = asked["environment"]
        while not no_wait and environment["state"] in ("pending", "building"):
            time.sleep(_POLL_SECONDS)
            environment = platform.model(name, commit=commit)["environment"]
    if environment["state"] == "failed":
        tail = environment.get("output_tail")
        if tail:
            echo(tail, err=True)
        raise ClientError(environment["error"])
    echo(environment["state"])


def _version(package: dict[str, Any]) -> str:
    """Return version and commit of a package, as far as it has them."""
    commit = f"@{package['commit']}" if package["commit"] else ""
    return f"{package['version']}{commit}"


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    state = model["environment"]["state"] + (" (stale)" if model["stale"] else "")
    return model["name"], model["description"], model["package"] or "built-in", state


def _package_row(package: dict[str, Any]) -> tuple[str, ...]:
    source = package["source"] or "index"
    if package["commit"]:
        source += f"@{package['commit']}"
    return package["name"], package["version"], source, "built" if package["built"] else ""
