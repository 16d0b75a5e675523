"""``registry``: sync it, or see what is wrong with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from dissmodel_platform.cli.connection import AsJson
from dissmodel_platform.cli.echo import echo
from dissmodel_platform.cli.logs import configure_logging
from dissmodel_platform.cli.registry_check import check
from dissmodel_platform.cli.registry_init import init
from dissmodel_platform.cli.roles import role_settings, run_until_stopped, with_database
from dissmodel_platform.cli.tables import print_table
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import RegistryError
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.registry.holds import accept, waiting_hold
from dissmodel_platform.registry.index import latest_publication, list_problems, model_names
from dissmodel_platform.registry.sync_runs import SyncRun, list_runs
from dissmodel_platform.services.sync import check_accepted, open_sync
from dissmodel_platform.services.sync_settings import open_mirror
from dissmodel_platform.settings import Settings, load_settings
from dissmodel_platform.types import Revision

_MOST_PROBLEMS = 100

app = typer.Typer(no_args_is_help=True)
app.command("check")(check)
app.command("init")(init)


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
        run_until_stopped(lambda stop, hurry: _watch(settings, stop), settings)
        return
    run = asyncio.run(_sync_once(settings))
    if run.error is not None:
        raise RegistryError(run.message)
    if as_json:
        content = {**vars(run), "id": str(run.id), "message": run.message}
        echo(json.dumps(content, indent=2))
    else:
        echo(run.message)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the served commit and what is wrong with its files.

    Example: dissmodel-platform registry status
    """
    settings = load_settings()
    configure_logging(settings, "registry")
    found = asyncio.run(_status(with_database(settings)))
    if as_json:
        echo(json.dumps(vars(found), indent=2, default=str))
        return
    echo(f"commit: {found.commit or 'none published yet'}")
    echo(f"models: {found.models}")
    if found.last_sync is not None:
        echo(f"last sync: {found.last_sync['at']}, {found.last_sync['message']}")
    if found.waiting is not None:
        echo(f"waits to be accepted: {found.waiting['commit']}, {found.waiting['reason']}")
    if found.problems:
        told = found.problems[:_MOST_PROBLEMS]
        print_table(("file", "line", "severity", "problem"), map(_row, told))
    if len(found.problems) > _MOST_PROBLEMS:
        echo(f"{len(found.problems) - _MOST_PROBLEMS} more problems; `--json` shows all.", err=True)


@app.command("accept")
def accept_commit(
    commit: Annotated[str, typer.Argument(help="At least 7 digits of the commit that waits.")],
) -> None:
    """Publish a commit that waits to be accepted.

    Example: dissmodel-platform registry accept 1f3a9c2
    """
    settings = role_settings("registry")
    revision, run = asyncio.run(_accept(settings, commit))
    if run.error is not None:
        raise RegistryError(run.message)
    check_accepted(run, revision)
    echo(run.message)


_Before = Callable[[Database], Awaitable[None]]


@dataclass(frozen=True)
class _Status:
    """What `registry status` shows."""

    commit: str | None
    models: int
    problems: list[dict[str, Any]]
    last_sync: dict[str, str] | None
    waiting: dict[str, str] | None


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


async def _sync_once(settings: Settings, before: _Before | None = None) -> SyncRun:
    """Sync in this process, in turns with a watching one.

    Parameters
    ----------
    before : callable, optional
        What is done once nothing of the settings stands in the way of the sync.
    """
    mirror = open_mirror(settings)
    database = await _open(settings)
    try:
        queue = await open_queue(database)
        sync = open_sync(database, queue, mirror, settings)
        if before is not None:
            await before(database)
        return await sync.run("command")
    finally:
        await database.close()


async def _accept(settings: Settings, commit: str) -> tuple[Revision, SyncRun]:
    """Accept the commit, then sync; nothing is accepted where no sync could follow."""
    accepted: list[Revision] = []

    async def accept_it(database: Database) -> None:
        accepted.append(await accept(database, commit, accepted_by="command line"))

    run = await _sync_once(settings, accept_it)
    return accepted[0], run


async def _status(settings: Settings) -> _Status:
    database = await _open(settings)
    try:
        publication = await latest_publication(database)
        runs = await list_runs(database, limit=1, before=None)
        last = {"at": str(runs[0].finished_at), "message": runs[0].message} if runs else None
        if publication is None:
            return _Status(None, 0, [], last, None)
        names = await model_names(database, publication)
        held = await waiting_hold(database)
        waiting = {"commit": held.revision, "reason": held.reason} if held else None
        problems = (await list_problems(database)).problems
        for problem in problems:
            del problem["id"]
        return _Status(publication.revision, len(names), problems, last, waiting)
    finally:
        await database.close()


async def _open(settings: Settings) -> Database:
    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value(), max_connections=4)
    await database.open()
    await migrate(database)
    return database
