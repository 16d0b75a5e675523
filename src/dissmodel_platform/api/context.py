"""What the handlers share: opened when the API starts, closed when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from procrastinate import App

from dissmodel_platform.access.keys import Caller, Keyring, Scope, read_or_make_key
from dissmodel_platform.access.shared_secrets import LINK_SECRET, shared_secret
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import SettingsError
from dissmodel_platform.experiments.feed import Feed
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.sandbox.walls import Walls, inspect_walls
from dissmodel_platform.services.submit import Submitter
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.objects import ObjectStore, open_object_store


@dataclass(frozen=True)
class Context:
    """The open parts of one API process."""

    settings: Settings
    database: Database
    queue: App
    store: ObjectStore
    keyring: Keyring
    link_secret: bytes
    submitter: Submitter
    walls: Walls
    feed: Feed
    streams: Counter[str]
    """Streams of events that are open now, by the name of their key."""


@asynccontextmanager
async def open_context(settings: Settings) -> AsyncIterator[Context]:
    """Open database, queue, store and keys.

    Raises
    ------
    SettingsError, DatabaseError, StorageError
        A part cannot be opened.
    """
    if settings.database_url is None:
        raise SettingsError("The api needs a database: set DATABASE_URL, or use `up`.")
    keys = [key.get_secret_value() for key in settings.api_keys]
    keyring = Keyring(keys or [read_or_make_key(settings.key_file)])
    database = Database(settings.database_url.get_secret_value())
    await database.open()
    try:
        await migrate(database)
        queue = await open_queue(database)
        feed = Feed(database)
        context = Context(
            settings=settings,
            database=database,
            queue=queue,
            store=open_object_store(settings.storage_url, settings.objects_directory),
            keyring=keyring,
            link_secret=await shared_secret(database, LINK_SECRET),
            submitter=Submitter(database, queue, settings),
            walls=inspect_walls(settings.sandbox),
            feed=feed,
            streams=Counter(),
        )
        async with feed.listening():
            yield context
    finally:
        await database.close()


# The guard reads the key; these tell the OpenAPI document where it goes.
_header = APIKeyHeader(name="X-API-Key", auto_error=False)
_bearer = HTTPBearer(auto_error=False)


def get_context(request: Request) -> Context:
    """Return the open parts."""
    context: Context = request.app.state.context
    return context


async def _context(request: Request) -> Context:
    return get_context(request)


Parts = Annotated[Context, Depends(_context)]


async def identify(
    request: Request,
    _key: Annotated[object, Depends(_header)],
    _token: Annotated[object, Depends(_bearer)],
) -> Caller:
    """Return whose key the request carries, as the guard has found it."""
    caller: Caller = request.state.caller
    return caller


def requires(scope: Scope) -> Callable[[Caller], Awaitable[Caller]]:
    """Make a dependency: the caller, whose key allows ``scope``."""

    async def check(caller: Annotated[Caller, Depends(identify)]) -> Caller:
        caller.require(scope)
        return caller

    return check
