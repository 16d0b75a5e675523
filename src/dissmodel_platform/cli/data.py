"""Files from the command line: upload, download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dissmodel_platform.cli.connection import DEFAULT_URL, AsJson, Key, Url, connect
from dissmodel_platform.cli.echo import echo
from dissmodel_platform.errors import ClientError

app = typer.Typer()


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(help="The file.")],
    label: Annotated[str, typer.Option(help="Groups uploads; part of the uri.")] = "default",
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Upload an input and print its uri.

    Example: dissmodel-platform upload grid.zip --label tutorial
    """
    if not file.is_file():
        raise ClientError(f"There is no file {file}; check the path.")
    with connect(url, key) as platform:
        answer = platform.upload(file, label=label)
    echo(json.dumps(answer, indent=2) if as_json else answer["uri"])


@app.command()
def download(
    what: Annotated[str, typer.Argument(help="A uri, or an experiment id for all its files.")],
    directory: Annotated[Path, typer.Argument(help="Where to.")] = Path(),
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Download a file, or all files of a result.

    Example: dissmodel-platform download 3f2c… results/
    """
    with connect(url, key) as platform:
        if "://" in what:
            files = {what.rsplit("/", 1)[-1]: what}
        else:
            files = {a["name"]: a["uri"] for a in platform.artifacts(what)}
        for name, uri in files.items():
            echo(str(platform.download(uri, directory / name)))
