"""Which platform the client commands talk to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from dissmodel_platform.client.platform import Platform
from dissmodel_platform.sandbox.walls import is_loopback

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="DISSMODEL_PLATFORM_URL", help="Address of the platform.", show_default=True
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="DISSMODEL_PLATFORM_KEY",
        help="API key; by default the one that a platform on this machine keeps.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def connect(url: str, key: str | None) -> Platform:
    """Return a client; without a key, a platform on this machine gets the one that ``up`` made."""
    return Platform(url, key or (_local_key() if _is_here(url) else None))


def _is_here(url: str) -> bool:
    """Say whether an address is this machine's own: nobody else is sent its key."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def _local_key() -> str | None:
    home = os.environ.get("PLATFORM_HOME")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    directory = Path(home) if home else Path(data) / "dissmodel-platform"
    try:
        return (directory / "api-key").read_text().strip()
    except OSError:
        return None
