"""``environments``: what is installed on this machine, and how much room it takes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dissmodel_platform.cli.connection import AsJson
from dissmodel_platform.cli.echo import echo
from dissmodel_platform.cli.logs import configure_logging
from dissmodel_platform.cli.tables import print_table
from dissmodel_platform.environments.layout import Layout
from dissmodel_platform.environments.survey import (
    Installed,
    Survey,
    damaged_files,
    in_use,
    installed,
)
from dissmodel_platform.errors import InvalidInput, NotFound
from dissmodel_platform.services.prepare import open_environments
from dissmodel_platform.settings import load_settings

_SHORT_KEY = 12
_COLUMNS = (
    "key", "package", "distribution", "python", "size", "own size", "last used", "in use",
)  # fmt: skip

PackagesDir = Annotated[
    Path | None,
    typer.Option(help="Where environments are kept; by default PLATFORM_HOME/packages."),
]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def environments() -> None:
    """Look at the environments of this machine and remove some."""


@app.command("list")
def list_(packages_dir: PackagesDir = None, as_json: AsJson = False) -> None:
    """List the environments of this machine, the one first that was used longest ago.

    The own size is what no other environment uses. Example: dissmodel-platform environments list
    """
    layout = _layout(packages_dir)
    found = installed(layout)
    survey = Survey.take(layout)
    told = [_summary(layout, entry, survey, found) for entry in found]
    if as_json:
        echo(json.dumps(told, indent=2))
        return
    print_table(_COLUMNS, map(_row, told))
    echo(f"environments: {len(told)}; with the package cache {_size(survey.total_bytes)}", err=True)


@app.command()
def prune(
    max_bytes: Annotated[
        int | None,
        typer.Option(min=1, help="Size to come below; by default PLATFORM_ENVIRONMENTS_MAX_BYTES."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove all that is not in use, and the package cache.")
    ] = False,
    packages_dir: PackagesDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove what was used longest ago, until the rest is below a size.

    What is in use stays, and what was used within the last two minutes.

    Example: dissmodel-platform environments prune --max-bytes 10000000000
    """
    settings = load_settings()
    configure_logging(settings, "environments")
    limit = 1 if everything else max_bytes or settings.environments_max_bytes
    if limit == 0:
        raise InvalidInput(
            "PLATFORM_ENVIRONMENTS_MAX_BYTES is 0, so there is no limit; name one with "
            "--max-bytes, or remove all that is not in use with --all."
        )
    directory = (packages_dir or settings.packages_directory).resolve()
    done = open_environments(settings, directory).collect(limit)
    if done is None:
        echo("A worker of this machine removes environments just now.", err=True)
        return
    if as_json:
        echo(json.dumps({**vars(done), "environments": list(done.environments)}, indent=2))
        return
    for key in done.environments:
        echo(key)
    echo(
        f"removed: {len(done.environments)}; from {_size(done.before_bytes)} to "
        f"{_size(done.after_bytes)}",
        err=True,
    )


@app.command()
def inspect(
    key: Annotated[str, typer.Argument(help="An environment's key, or how it begins.")],
    packages_dir: PackagesDir = None,
    as_json: AsJson = False,
) -> None:
    """Show one environment, and whether all its files are as they were installed.

    Exit code 1 where they are not; it is built anew when it is wanted next.

    Example: dissmodel-platform environments inspect 3f9a
    """
    layout = _layout(packages_dir)
    found = installed(layout)
    entry = _choose(key, found)
    lock = entry.directory / "pylock.toml"
    text = lock.read_bytes() if lock.is_file() else b""
    damage = damaged_files(layout, entry)
    libraries = entry.marker.get("libraries", "")
    content = {
        **_summary(layout, entry, Survey.take(layout), found),
        "directory": str(entry.directory),
        "libraries": str(layout.libraries / libraries) if libraries else None,
        "editable": entry.marker.get("editable") or None,
        "walls": entry.marker.get("walls", []),
        "lock": {"path": str(lock), "sha256": hashlib.sha256(text).hexdigest()} if text else None,
        "wheels": dict(sorted(entry.wheels.items())),
        "damage": damage,
    }
    if as_json:
        echo(json.dumps(content, indent=2))
    else:
        _print(content)
    if damage:
        raise typer.Exit(1)


def _layout(packages_dir: Path | None) -> Layout:
    return Layout((packages_dir or load_settings().packages_directory).resolve())


def _choose(key: str, found: Sequence[Installed]) -> Installed:
    fitting = [entry for entry in found if entry.key.startswith(key)]
    if not fitting:
        raise NotFound(
            f"There is no environment {key!r} on this machine; `dissmodel-platform environments "
            "list` shows those there are."
        )
    if len(fitting) > 1:
        raise InvalidInput(f"{len(fitting)} environments begin with {key!r}; give more of the key.")
    return fitting[0]


def _summary(
    layout: Layout, entry: Installed, survey: Survey, found: Sequence[Installed]
) -> dict[str, Any]:
    return {
        "key": entry.key,
        "package": entry.marker.get("package", ""),
        "distribution": entry.marker.get("distribution", ""),
        "python": entry.marker.get("python", ""),
        "size_bytes": survey.size_bytes(entry.parts),
        "own_bytes": survey.own_bytes(entry, found),
        "last_used": datetime.fromtimestamp(entry.last_used, UTC).isoformat(timespec="seconds"),
        "in_use": in_use(layout, entry.key),
    }


def _row(told: dict[str, Any]) -> tuple[str, ...]:
    return (
        told["key"][:_SHORT_KEY] if sys.stdout.isatty() else told["key"],
        told["package"] or "built-in",
        told["distribution"],
        told["python"],
        _size(told["size_bytes"]),
        _size(told["own_bytes"]),
        told["last_used"],
        "yes" if told["in_use"] else "no",
    )


def _print(content: dict[str, Any]) -> None:
    """Print one line for each fact, one for each wheel, and what is damaged last."""
    for name, cell in zip(_COLUMNS, _row(content), strict=True):
        echo(f"{name}: {content['key'] if name == 'key' else cell}")
    echo(f"directory: {content['directory']}")
    echo(f"libraries: {content['libraries'] or 'in the environment itself'}")
    if content["editable"]:
        echo(f"editable: {content['editable']}")
    echo(f"walls around its build: {', '.join(content['walls']) or 'none'}")
    lock = content["lock"]
    echo(f"lock: {lock['path']} (sha256 {lock['sha256']})" if lock else "lock: none")
    for name, sha256 in content["wheels"].items():
        echo(f"wheel: {name} sha256 {sha256}")
    for path in content["damage"]:
        echo(f"damaged: {path}")
    echo(f"files: {'damaged' if content['damage'] else 'as they were installed'}")


def _size(size_bytes: int) -> str:
    """Write a size in the unit that fits."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB" if size < 1000 else f"{size:.0f} GB"
