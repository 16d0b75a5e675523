"""``up``: everything on one machine, supervised."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated

import httpx
import typer

from dissmodel_platform.access.keys import read_or_make_key
from dissmodel_platform.cli.listening import listen
from dissmodel_platform.cli.logs import configure_logging
from dissmodel_platform.cli.roles import stop_seconds
from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError, SettingsError
from dissmodel_platform.experiments.recovery import forget_all_workers, forget_process
from dissmodel_platform.processes import die_with_supervisor
from dissmodel_platform.sandbox.walls import (
    check_exposure,
    check_policy,
    inspect_walls,
    is_loopback,
)
from dissmodel_platform.services.local_registry import make_local_registry
from dissmodel_platform.services.sync_settings import open_mirror
from dissmodel_platform.settings import Settings, load_settings
from dissmodel_platform.supervisor import Role, Supervisor

app = typer.Typer()
log = logging.getLogger(__name__)

_KILL_SECONDS = 2.0  # later than the roles end themselves
_HAND_BACK_SECONDS = 3.0  # the supervisor does nothing else meanwhile


@app.command("up")
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
) -> None:
    """Start api, workers and registry sync on this machine; Ctrl-C ends everything.

    Example: dissmodel-platform up --port 8080
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    die_with_supervisor()
    settings = load_settings()
    configure_logging(settings, "up")
    walls = inspect_walls(settings.sandbox)
    check_policy(settings.sandbox, walls)
    check_exposure(host, settings.sandbox, walls)
    _check_registry(settings, host)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        _run(settings, host, port, workers)
    except KeyboardInterrupt:  # before the supervisor took the signals over
        log.info("stopped while starting")
    typer.echo("Stopped.")


def _run(settings: Settings, host: str, port: int, workers: int) -> None:
    """Start everything, and end it again when a signal asks for it or something fails."""
    with ExitStack() as stack:
        environment = dict(os.environ) | {"PLATFORM_HOME": str(settings.home)}
        watch: Callable[[], None] | None = None
        if settings.database_url is None:
            postgres = stack.enter_context(EmbeddedPostgres(settings.home / "pg"))
            environment["DATABASE_URL"] = postgres.url
            watch = postgres.ensure_alive
        listen(host, port).close()  # before an api that cannot would be restarted for ever
        database_url = environment["DATABASE_URL"]
        asyncio.run(_prepare_database(database_url, embedded=settings.database_url is None))
        environment |= _registry_settings(settings)
        _announce(settings, host, port)
        supervisor = Supervisor(
            _roles(environment, host, port, workers),
            stop_grace_seconds=stop_seconds(settings) + _KILL_SECONDS,
            on_exit=lambda role, pid, code: _hand_back(database_url, role, pid),
            watch=_watching(watch, host, port),
        )
        supervisor.run()


def _roles(environment: dict[str, str], host: str, port: int, workers: int) -> list[Role]:
    program = [sys.executable, "-m", "dissmodel_platform"]
    api = [*program, "api", "--host", host, "--port", str(port)]
    return [
        Role("registry sync", [*program, "registry", "sync", "--watch"], environment),
        Role("api", api, environment),
        *(
            Role(f"worker {number}", [*program, "worker"], environment)
            for number in range(1, workers + 1)
        ),
    ]


def _check_registry(settings: Settings, host: str) -> None:
    """Refuse a registry that the sync would refuse, again and again.

    The one that is made where none is named is for loopback addresses only: its packages are local
    repositories, so local packages are allowed, and whoever may submit could run any code of this
    machine's user.

    Raises
    ------
    SettingsError
        The address is refused, or none is given and other machines could submit.
    """
    if settings.configs_repo is not None:
        open_mirror(settings)
    elif not is_loopback(host):
        raise SettingsError(
            "Set CONFIGS_REPO to your registry's git address before listening beyond this machine."
        )


def _registry_settings(settings: Settings) -> dict[str, str]:
    """Return what makes the roles use a registry of this machine where none is named."""
    if settings.configs_repo is not None:
        return {}
    registry = make_local_registry(settings.home / "local")
    return {
        "CONFIGS_REPO": registry.registry_url,
        "PLATFORM_ALLOW_LOCAL_REGISTRY": "true",
        "PLATFORM_ALLOW_LOCAL_PACKAGES": "true",
    }


def _announce(settings: Settings, host: str, port: int) -> None:
    typer.echo(f"DisSModel Platform: {_address(host, port)}")
    if settings.api_keys:
        typer.echo("API key: one of those in API_KEYS")
    else:
        read_or_make_key(settings.key_file)
        typer.echo(f"API key: kept in {settings.key_file}")
    typer.echo(f"Data:    {settings.home}")
    if settings.configs_repo is None:
        typer.echo(f"Registry: {settings.home / 'local' / 'dissmodel-configs'} (a local one)")
    typer.echo("Ctrl-C ends everything.")


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _watching(
    ensure_database: Callable[[], None] | None, host: str, port: int
) -> Callable[[], None]:
    """Make the supervisor's watch: the database lives; say once when the API answers."""
    announced = False
    reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared only

    def watch() -> None:
        nonlocal announced
        if ensure_database is not None:
            ensure_database()
        if not announced:
            try:
                httpx.get(f"{_address(reached, port)}/health", timeout=1.0, trust_env=False)
            except httpx.TransportError:
                return
            announced = True
            typer.echo("Ready.")

    return watch


async def _prepare_database(url: str, *, embedded: bool) -> None:
    """Bring the schema up to date; on a server of our own, no worker can be alive yet."""
    database = Database(url, max_connections=2)
    await database.open(timeout_seconds=30.0)
    try:
        await migrate(database)
        if embedded:
            await forget_all_workers(database)
    finally:
        await database.close()


def _hand_back(database_url: str, role: Role, pid: int) -> None:
    """Give the runs of a dead worker back at once, without waiting for its missing heartbeats."""
    if not role.name.startswith("worker"):
        return

    async def forget() -> None:
        database = Database(database_url, max_connections=1)
        await database.open(timeout_seconds=_HAND_BACK_SECONDS)
        try:
            await forget_process(database, pid)
        finally:
            await database.close()

    try:
        asyncio.run(forget())
    except DatabaseError as error:
        log.warning("the runs of worker process %d are handed back later: %s", pid, error)
