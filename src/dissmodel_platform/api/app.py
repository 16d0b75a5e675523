"""Builds the API; importing this builds nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from dissmodel_platform import __version__
from dissmodel_platform.api import (
    data,
    downloads,
    events,
    experiments,
    health,
    jobs,
    locks,
    models,
    problems,
    registry,
    webhooks,
)
from dissmodel_platform.api.bodies import BodyGuard
from dissmodel_platform.api.context import open_context
from dissmodel_platform.api.guard import KeyGuard
from dissmodel_platform.settings import Settings
from dissmodel_platform.web import home


def create_app(settings: Settings) -> FastAPI:
    """Make the application; its parts open when it starts and close when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_context(settings) as context:
            app.state.context = context
            yield

    app = FastAPI(
        title="DisSModel Platform",
        summary="Run, cite and reproduce published spatial simulation models.",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        strict_content_type=False,  # older clients send JSON without saying so
        swagger_ui_oauth2_redirect_url=None,
    )
    app.add_middleware(BodyGuard, max_bytes=settings.max_request_bytes)
    app.add_middleware(KeyGuard)
    app.add_middleware(  # the outermost, so that a browser can read refusals too
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "HEAD", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["Content-Range", "Content-Length", "Accept-Ranges", "ETag"],
    )
    problems.install(app)
    for part in (
        jobs, events, models, locks, experiments, registry, data, downloads, webhooks, health, home,
    ):  # fmt: skip
        app.include_router(part.router)
    return app
