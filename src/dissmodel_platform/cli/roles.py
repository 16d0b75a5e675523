"""What the three roles have in common when they start and end."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from pydantic import SecretStr

from dissmodel_platform.cli.logs import configure_logging
from dissmodel_platform.database.embedded import running_url
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.processes import die_with_supervisor
from dissmodel_platform.settings import Settings, load_settings

_FAREWELL_SECONDS = 10.0  # beside the time that running models get


def role_settings(role: str, **overrides: Any) -> Settings:
    """Read the settings of a role, tie it to its supervisor, and start its log.

    Without ``DATABASE_URL`` the embedded server that ``up`` started on this machine is used.

    Raises
    ------
    SettingsError
        A setting does not fit.
    DatabaseError
        No database is named, and none is running here.
    """
    die_with_supervisor()
    settings = load_settings(**overrides)
    configure_logging(settings, role)
    return with_database(settings)


def with_database(settings: Settings) -> Settings:
    """Return settings that name a database.

    Raises
    ------
    DatabaseError
        None is named, and no embedded one is running.
    """
    if settings.database_url is not None:
        return settings
    url = running_url(settings.home / "pg")
    if url is None:
        raise DatabaseError(
            "No database: start the platform with `dissmodel-platform up`, or set DATABASE_URL."
        )
    return settings.model_copy(update={"database_url": SecretStr(url)})


def stop_seconds(settings: Settings) -> float:
    """Return how long a role may take to end once it has been asked to, in seconds."""
    return settings.stop_grace_seconds + _last_seconds(settings)


def _last_seconds(settings: Settings) -> float:
    return settings.cancel_grace_seconds + _FAREWELL_SECONDS


def run_until_stopped(
    serve: Callable[[asyncio.Event, asyncio.Event], Coroutine[Any, Any, None]], settings: Settings
) -> None:
    """Run a role; SIGTERM and SIGINT set the event that it ends by, a second one also the other.

    The second event means: wait for nothing. It is set at once where the parent is gone: nobody may
    be left then to send a second signal, and the database may have gone with it. A role that hangs
    is ended by the system.
    """

    async def main() -> None:
        stop, hurry = asyncio.Event(), asyncio.Event()
        parent = os.getppid()

        def ask() -> None:
            if stop.is_set() or os.getppid() != parent:
                hurry.set()
            seconds = _last_seconds(settings) if hurry.is_set() else stop_seconds(settings)
            signal.alarm(math.ceil(seconds))
            stop.set()

        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, ask)
        await serve(stop, hurry)

    asyncio.run(main())
