"""``registry``: sync it, or see what is wrong with it."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from dissmodel_platform.cli.connection import AsJson
from dissmodel_platform.cli.logs import configure_logging
from dissmodel_platform.cli.roles import role_settings, run_until_stopped, with_database
from dissmodel_platform.cli.tables import print_table
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import RegistryError
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.registry.index import latest_publication, list_problems, model_names
from dissmodel_platform.registry.sync_runs import SyncRun
from dissmodel_platform.services.sync import open_mirror, open_sync
from dissmodel_platform.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def registry() -> None:
    """Sync the registry and look at its state."""


@app.command()
def sync(
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: at the interval and on request.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch the registry and publish what is new.

    Example: dissmodel-platform registry sync
    """
    settings = role_settings("sync")
    if watch:
        run_until_stopped(lambda stop: _watch(settings, stop), settings)
        return
    run = asyncio.run(_sync_once(settings))
    if run.error is not None:
        raise RegistryError(run.message)
    if as_json:
        content = {**vars(run), "id": str(run.id), "message": run.message}
        typer.echo(json.dumps(content, indent=2))
    else:
        typer.echo(run.message)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the served commit and what is wrong with its files.

    Example: dissmodel-platform registry status
    """
    settings = load_settings()
    configure_logging(settings, "registry")
    commit, names, problems = asyncio.run(_status(with_database(settings)))
    if as_json:
        typer.echo(json.dumps({"commit": commit, "models": names, "problems": problems}, indent=2))
        return
    typer.echo(f"commit: {commit or 'none published yet'}")
    typer.echo(f"models: {len(names)}")
    if problems:
        print_table(("file", "line", "severity", "problem"), map(_row, problems))


def _row(problem: dict[str, Any]) -> tuple[str, ...]:
    line = str(problem["line"] or "")
    return problem["path"], line, problem["severity"], problem["message"]


async def _watch(settings: Settings, stop: asyncio.Event) -> None:
    mirror = open_mirror(settings)
    database = await _open(settings)
    try:
        queue = await open_queue(database)
        syncing = asyncio.create_task(
            open_sync(database, queue, mirror, settings).watch(stop, settings.configs_sync_interval)
        )
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({syncing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            mirror.interrupt()
        stopping.cancel()
        await syncing
    finally:
        await database.close()


async def _sync_once(settings: Settings) -> SyncRun:
    mirror = open_mirror(settings)
    database = await _open(settings)
    try:
        queue = await open_queue(database)
        return await open_sync(database, queue, mirror, settings).run("command")
    finally:
        await database.close()


async def _status(settings: Settings) -> tuple[str | None, list[str], list[dict[str, Any]]]:
    database = await _open(settings)
    try:
        publication = await latest_publication(database)
        if publication is None:
            return None, [], []
        names = await model_names(database, publication)
        return publication.revision, names, await list_problems(database)
    finally:
        await database.close()


async def _open(settings: Settings) -> Database:
    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value(), max_connections=4)
    await database.open()
    await migrate(database)
    return database
