"""A worker that builds nothing, and models for it: what the tests of locks and builds share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from dissmodel_platform.api.app import create_app
from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments import records
from dissmodel_platform.environments.lock import BuiltWheel, Lock
from dissmodel_platform.environments.packages import request_for
from dissmodel_platform.errors import BuildInterrupted, DatabaseError, PlatformError
from dissmodel_platform.experiments.queue import BUILDS, open_queue
from dissmodel_platform.registry.spec import ModelSpec
from dissmodel_platform.services.build import Builder
from dissmodel_platform.services.sync import RegistrySync
from dissmodel_platform.settings import Settings, load_settings
from dissmodel_platform.types import EnvironmentKey, Sha256
from tests.integration.api.role import KEY
from tests.integration.registry.conftest import MakeMirror, Registry

A, B = "a" * 64, "b" * 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKAGE = "flood @ git+https://git.example.org/lab/flood@v1"


def lock_text(dissmodel: str = "0.6.2") -> str:
    return f"""\
lock-version = "1.0"
created-by = "uv"

[[packages]]
name = "dissmodel"
version = "{dissmodel}"
wheels = [{{ url = "https://files.example.org/dissmodel.whl", hashes = {{ sha256 = "{A}" }} }}]

[[packages]]
name = "flood"
vcs = {{ type = "git", url = "https://git.example.org/lab/flood", commit-id = "{COMMIT}" }}
"""


def lock(dissmodel: str = "0.6.2") -> Lock:
    wheel = BuiltWheel("flood", "flood-1.0-py3-none-any.whl", Sha256(B))
    return Lock.parse(lock_text(dissmodel)).with_built([wheel])


class Bench:
    """Stands for a worker's preparer: makes the lock that it is told to, or fails.

    What a publication asks for is left alone unless `prepares` is set.
    """

    prepares = False

    def __init__(self, database: Database) -> None:
        self.database = database
        self.makes: Lock | PlatformError = lock()

    async def relock(self, spec: ModelSpec) -> tuple[Lock | None, Lock]:
        if isinstance(self.makes, PlatformError):
            raise self.makes
        request = request_for(spec.package, spec.dissmodel, allow_local=False)
        row = await records.find_or_create(self.database, spec.name, request)
        return row.lock, await records.keep_lock(self.database, row, self.makes, request)

    async def prepare(self, spec: ModelSpec) -> None:
        if not self.prepares:
            return
        request = request_for(spec.package, spec.dissmodel, allow_local=False)
        row = await records.find_or_create(self.database, spec.name, request)
        await records.mark_building(self.database, row)
        if isinstance(self.makes, PlatformError):
            if not isinstance(self.makes, BuildInterrupted | DatabaseError):
                await records.mark_failed(self.database, row, self.makes)
            raise self.makes
        await records.keep_lock(self.database, row, self.makes, request)
        await records.mark_ready(self.database, row, EnvironmentKey("a key"), 1.5)


@pytest.fixture
async def bench(database: Database) -> Bench:
    return Bench(database)


@asynccontextmanager
async def taking_jobs(database: Database, bench: Bench) -> AsyncIterator[None]:
    """Take the jobs of builds, as a worker does, while a block runs."""
    queue = await open_queue(database)
    Builder(database, queue, bench).take_jobs()  # type: ignore[arg-type]
    worker = asyncio.create_task(
        queue.run_worker_async(
            queues=[BUILDS], install_signal_handlers=False, shutdown_graceful_timeout=0,
            delete_jobs="always",
        )
    )  # fmt: skip
    yield
    worker.cancel()
    with suppress(asyncio.CancelledError):
        await worker


@pytest.fixture
async def working(database: Database, bench: Bench) -> AsyncIterator[None]:
    async with taking_jobs(database, bench):
        yield


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", database_url=database_url, api_keys=KEY)


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://platform",
            headers={"X-API-Key": KEY},
        ) as opened,
    ):  # fmt: skip
        yield opened


@pytest.fixture
async def publish(database: Database, registry: Registry, make_mirror: MakeMirror) -> Any:
    """Publish models by their constraint on dissmodel, each of the same package."""
    sync = RegistrySync(database, await open_queue(database), make_mirror())

    async def publish(**models: str) -> str:
        texts = {
            f"{name}.toml": f'[model]\nclass = "flood"\npackage = "{PACKAGE}"\n{keys}'
            for name, keys in models.items()
        }
        commit = registry.commit(texts)
        assert (await sync.run("a test")).error is None
        return commit

    return publish
