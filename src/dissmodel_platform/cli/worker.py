"""``worker``: the role that builds environments and runs experiments."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer

from dissmodel_platform.cli.roles import role_settings, run_until_stopped
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.sandbox.walls import check_policy, inspect_walls
from dissmodel_platform.services.worker import Worker
from dissmodel_platform.storage.objects import open_object_store

app = typer.Typer()
log = logging.getLogger(__name__)


@app.command("worker")
def worker(
    database_url: Annotated[str | None, typer.Option(help="PostgreSQL address.")] = None,
    storage_url: Annotated[str | None, typer.Option(help="Object store.")] = None,
    slots: Annotated[int | None, typer.Option(help="Runs at the same time.")] = None,
) -> None:
    """Build environments and run experiments; start as many as you like.

    Example: dissmodel-platform worker --slots 2
    """
    settings = role_settings(
        "worker", database_url=database_url, storage_url=storage_url, worker_slots=slots
    )
    walls = inspect_walls(settings.sandbox)
    check_policy(settings.sandbox, walls)
    for sentence in walls.missing:
        log.warning("%s", sentence)
    assert settings.database_url is not None
    database = Database(
        settings.database_url.get_secret_value(),
        max_connections=6 + 2 * settings.worker_slots,
        # after that, others take its runs over anyway
        transaction_seconds=settings.worker_timeout_seconds,
    )

    async def serve(stop: asyncio.Event, hurry: asyncio.Event) -> None:
        await database.open()
        try:
            await migrate(database)
            store = open_object_store(settings.storage_url, settings.objects_directory)
            queue = await open_queue(database)
            await Worker(database, queue, store, settings).serve(stop, hurry)
        finally:
            await database.close()

    run_until_stopped(serve, settings)
