"""Keep a machine tidy: its caches below their sizes, its runs' directory without remains."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Protocol

from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments.scratch import remove_tree, sweep
from dissmodel_platform.errors import DatabaseError, PlatformError
from dissmodel_platform.execution.paths import SERVERS
from dissmodel_platform.experiments.queries import running_attempts
from dissmodel_platform.services.run import scratch_name

log = logging.getLogger(__name__)

_SCRATCH_SECONDS = 300.0
_FIRST_SECONDS = 60.0
_INTERVAL_SECONDS = 3_600.0


class Collection(Protocol):
    """What a collection has done."""

    @property
    def removed_count(self) -> int:
        """How many things were removed."""

    @property
    def before_bytes(self) -> int:
        """Size before."""

    @property
    def after_bytes(self) -> int:
        """Size afterwards."""


class Cache(Protocol):
    """What can be kept below a size."""

    def collect(self, max_bytes: int) -> Collection | None:
        """Remove what was used longest ago; ``None`` where nothing was done."""


class Tidier:
    """Collects what was used longest ago, in the background of a worker.

    Parameters
    ----------
    cache : Cache
        This machine's.
    max_bytes : int
        Size to keep below; 0: no limit.
    what : str, optional
        What is in the cache, for the log.
    """

    def __init__(self, cache: Cache, max_bytes: int, *, what: str = "environments") -> None:
        self._cache = cache
        self._max_bytes = max_bytes
        self._what = what
        self._wanted = asyncio.Event()

    def want(self) -> None:
        """Have a look soon: something was added."""
        self._wanted.set()

    async def run(self) -> None:
        """Look when it is wanted and once an hour, until cancelled."""
        patience = _FIRST_SECONDS
        while True:
            try:
                async with asyncio.timeout(patience):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            patience = _INTERVAL_SECONDS
            await self._collect()

    async def _collect(self) -> None:
        try:
            done = await asyncio.to_thread(self._cache.collect, self._max_bytes)
        except (PlatformError, OSError) as error:
            log.warning("%s cannot be collected: %s", self._what, error)
            return
        if done is not None and done.before_bytes > self._max_bytes:
            log.info(
                "%s took %.1f GB and take %.1f GB now; %d were removed",
                self._what,
                done.before_bytes / 1e9,
                done.after_bytes / 1e9,
                done.removed_count,
            )


async def keep_scratch_tidy(database: Database, directory: Path) -> None:
    """Remove what killed workers left of their runs: at once, then every few minutes, for ever."""
    while True:
        try:
            await remove_stale_scratch(database, directory)
        except (DatabaseError, OSError) as error:
            log.warning("what runs have left behind cannot be removed: %s", error)
        await asyncio.sleep(_SCRATCH_SECONDS)


async def remove_stale_scratch(database: Database, directory: Path) -> None:
    """Remove the directories of attempts that no worker runs, closed ones too."""
    left = await asyncio.to_thread(lambda: list(directory.glob("*/*")))
    running = {scratch_name(*attempt) for attempt in await running_attempts(database)}
    for path in left:  # listed first: each attempt is claimed before its directory is made
        if path.name == SERVERS:
            await asyncio.to_thread(sweep, path)
        elif path.name not in running:
            await asyncio.to_thread(remove_tree, path)
