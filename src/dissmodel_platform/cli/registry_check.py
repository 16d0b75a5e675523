"""``registry check``: what a server would say of a registry's work tree."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dissmodel_platform.cli.check_formats import print_annotations, print_json, print_report
from dissmodel_platform.cli.echo import echo
from dissmodel_platform.cli.logs import configure_logging
from dissmodel_platform.sandbox.walls import check_policy, inspect_walls
from dissmodel_platform.services.check import CheckRequest, check_registry
from dissmodel_platform.services.check_report import CheckReport
from dissmodel_platform.settings import Settings, load_settings

_INTERRUPTED = 130
_Result = TypeVar("_Result")


class Format(StrEnum):
    """How the report is told."""

    TABLE = "table"
    GITHUB = "github"
    JSON = "json"


_PRINTERS = {
    Format.TABLE: print_report,
    Format.GITHUB: print_annotations,
    Format.JSON: print_json,
}


def check(
    path: Annotated[Path, typer.Argument(help="Work tree of the registry.")] = Path(),
    base: Annotated[
        str | None,
        typer.Option(help="Check only what changed since this branch, tag or commit was left."),
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="How to tell it.")] = Format.TABLE,
    no_build: Annotated[
        bool, typer.Option("--no-build", help="Read the files; install and run nothing.")
    ] = False,
    allow_local: Annotated[
        bool, typer.Option("--allow-local", help="Accept packages of this machine (paths).")
    ] = False,
    packages_dir: Annotated[
        Path | None,
        typer.Option(help="Where environments are kept; by default PLATFORM_HOME/packages."),
    ] = None,
) -> None:
    """Check the models of a registry as a server would, before they are merged.

    The files are read as they stand, committed or not. Then each model's package is installed, its
    executor imported and checked, and its example run once: code of the package runs as you. Exit
    code 1 where there is a fault.

    Example: dissmodel-platform registry check --base origin/main
    """
    settings = load_settings()
    configure_logging(settings, "check")
    if not no_build:
        check_policy(settings.sandbox, inspect_walls(settings.sandbox))
        if packages_dir is None:
            settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    request = CheckRequest(
        directory=path,
        base=base,
        builds=not no_build,
        allow_local=allow_local,
        packages_directory=(packages_dir or settings.packages_directory).resolve(),
    )
    try:
        report = asyncio.run(_check(request, settings))
    except asyncio.CancelledError:
        raise typer.Exit(_INTERRUPTED) from None
    _PRINTERS[output](report)
    if not report.ok:
        raise typer.Exit(1)


async def _check(request: CheckRequest, settings: Settings) -> CheckReport:
    with tempfile.TemporaryDirectory(prefix="registry-check-") as temporary:
        try:
            work = check_registry(request, settings, Path(temporary), _tell)
            return await _interruptible(work)
        finally:
            # An interrupted build ends in its thread, which still uses the directory.
            await asyncio.get_running_loop().shutdown_default_executor()


async def _interruptible(work: Coroutine[Any, Any, _Result]) -> _Result:
    """See work through; the first SIGINT or SIGTERM cancels it, later ones change nothing.

    So nothing interrupts the cleaning up.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, _cancel_once, task)
    return await task


def _cancel_once(task: asyncio.Task[Any]) -> None:
    if not task.cancelling():
        task.cancel()


def _tell(line: str) -> None:
    echo(line, err=True)
