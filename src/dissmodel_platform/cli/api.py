"""``api``: the HTTP role."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
import uvicorn

from dissmodel_platform.api.app import create_app
from dissmodel_platform.cli.listening import listen
from dissmodel_platform.cli.roles import role_settings, run_until_stopped
from dissmodel_platform.sandbox.walls import check_exposure, inspect_walls

app = typer.Typer()
log = logging.getLogger(__name__)

_DRAIN_SECONDS = 5


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which end the process before its ``finally``."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@app.command("api")
def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serve the HTTP API; runs no model code.

    Example: dissmodel-platform api --port 8000
    """
    settings = role_settings("api")
    check_exposure(host, settings.sandbox, inspect_walls(settings.sandbox))
    listener = listen(host, port)
    application = create_app(settings)
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",  # it would log what keeps the parts from opening, and not raise it
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _Server(config)

    async def serve(stop: asyncio.Event, hurry: asyncio.Event) -> None:
        async def end() -> None:
            await stop.wait()
            application.state.context.feed.close()  # else its streams would have to be cut
            server.should_exit = True

        async with application.router.lifespan_context(application):
            ending = asyncio.create_task(end())
            log.info("the api listens on %s, port %d", host, port)
            await server.serve(sockets=[listener])
            ending.cancel()

    run_until_stopped(serve, settings)
