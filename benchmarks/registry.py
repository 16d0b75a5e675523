"""A registry of 10,000 models: first publication, one changed model, no change, listings."""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import Figure, milliseconds
from dissmodel_platform.api.app import create_app
from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.registry.mirror import Mirror
from dissmodel_platform.services.sync import RegistrySync
from dissmodel_platform.settings import load_settings

MODELS = 10_000
_CHANGES = 15
_REQUESTS = 60
_SPEC = """\
[model]
name = "{name}"
class = "{name}"
package = "example-{name}==0.1.0"
description = "Model number {name} of a large registry."

[model.parameters]
rate = {value}
end_time = 10
land_use_types = ["forest", "pasture", "crops"]
"""


def measure() -> Iterator[Figure]:
    """Measure on a real repository, a real mirror and a real PostgreSQL."""
    yield from asyncio.run(_measure())


async def _measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="dissmodel-bench-") as temporary:
        place = Path(temporary)
        repository = _Repository(place / "registry")
        with EmbeddedPostgres(place / "pg") as postgres:
            async with _opened(postgres.url) as database:
                mirror = Mirror(place / "home" / "registry.git", repository.url, None,
                                allow_local=True)  # fmt: skip
                sync = RegistrySync(database, await open_queue(database), mirror)
                figures = await _syncs(sync, repository, place)
            figures += await _requests(postgres.url, place)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures.append(Figure("peak memory of it all (sync and API in one process)",
                              f"{peak:.0f} MB", "≤ 250 MB"))  # fmt: skip
    return figures


async def _syncs(sync: RegistrySync, repository: _Repository, place: Path) -> list[Figure]:
    first = await _seconds(lambda: sync.run("bench"))
    twin = place / "twin.git"
    repository.git("clone", "--quiet", "--bare", repository.url, str(twin))
    unchanged = [await _seconds(lambda: sync.run("bench")) for _ in range(_CHANGES)]
    round_trips = [_timed(lambda: repository.git("ls-remote", repository.url, "HEAD"))
                   for _ in range(_CHANGES)]  # fmt: skip
    changed, fetches = [], []
    for number in range(_CHANGES):
        repository.change(number)
        fetches.append(_timed(lambda: repository.git(
            "--git-dir", str(twin), "fetch", "--quiet", repository.url, "+main:main")))  # fmt: skip
        changed.append(await _seconds(lambda: sync.run("bench")))
    ratio = statistics.median(changed) / statistics.median(fetches)
    return [
        Figure(f"first publication of {MODELS:,} models", f"{first:.2f} s", "≤ 6 s"),
        Figure(f"1 changed model of {MODELS:,} → visible", milliseconds(changed), "≤ 150 ms p50",
               f"plain git fetch {milliseconds(fetches)} (ratio {ratio:.1f})"),
        Figure("no change", milliseconds(unchanged), "one round trip",
               f"git ls-remote {milliseconds(round_trips)}"),
    ]  # fmt: skip


async def _requests(url: str, place: Path) -> list[Figure]:
    """Time the listings as the API answers them, without a socket between."""
    settings = load_settings(home=place / "home", database_url=url, api_keys="bench")
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        headers = {"X-API-Key": "bench"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://bench", headers=headers
        ) as client:
            empty = await _times(client, "/openapi.json")
            page = await _times(client, "/models?limit=100")
            first = (await client.get("/models?limit=1")).json()["next"]
            publication = first.partition(":")[0]  # as in any cursor of this listing
            far = await _times(client, f"/models?limit=100&cursor={publication}:model_09000")
            one = await _times(client, "/models/model_05000")
    yardstick = f"a static answer of the same app {milliseconds(empty)}"
    return [
        Figure("GET /models, page of 100 (first)", milliseconds(page), "≤ 15 ms p50", yardstick),
        Figure("GET /models, page of 100 (91st)", milliseconds(far), "≤ 15 ms p50", yardstick),
        Figure("GET /models/{name}", milliseconds(one), "≤ 15 ms p50", yardstick),
    ]


async def _times(client: httpx.AsyncClient, path: str) -> list[float]:
    async def get() -> None:
        (await client.get(path)).raise_for_status()

    await get()
    return [await _seconds(get) for _ in range(_REQUESTS)]


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    await database.open()
    try:
        await migrate(database)
        yield database
    finally:
        await database.close()


async def _seconds(action: Callable[[], Coroutine[Any, Any, object]]) -> float:
    begin = time.perf_counter()
    await action()
    return time.perf_counter() - begin


def _timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


class _Repository:
    """A registry with many models; commits change one of them."""

    def __init__(self, directory: Path) -> None:
        self._models = directory / "models"
        self._models.mkdir(parents=True)
        self._directory = directory
        self.url = directory.as_uri()
        for number in range(MODELS):
            self._write(number, 0.5)
        self.git("init", "--quiet", "--initial-branch=main", str(directory))
        self._commit()

    def change(self, number: int) -> None:
        """Commit another value of one model's parameter."""
        self._write(number, time.monotonic())
        self._commit()

    def git(self, *arguments: str) -> None:
        """Run git with none of the user's configuration."""
        subprocess.run(
            ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost",
             "-c", "gc.auto=0", *arguments],
            check=True, stdout=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1",
                 "GIT_CONFIG_GLOBAL": os.devnull},
        )  # fmt: skip

    def _write(self, number: int, value: float) -> None:
        name = f"model_{number:05}"
        (self._models / f"{name}.toml").write_text(_SPEC.format(name=name, value=value))

    def _commit(self) -> None:
        self.git("-C", str(self._directory), "add", "--all")
        self.git("-C", str(self._directory), "commit", "--quiet", "--message=change")
