"""Keep a machine's environments below their size: after each build, and once an hour."""

from __future__ import annotations

import asyncio
import logging

from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.errors import PlatformError

log = logging.getLogger(__name__)

_FIRST_SECONDS = 60.0
_INTERVAL_SECONDS = 3_600.0


class Tidier:
    """Collects what was used longest ago, in the background of a worker.

    Parameters
    ----------
    environments : EnvironmentStore
        This machine's.
    max_bytes : int
        Size to keep below; 0: no limit.
    """

    def __init__(self, environments: EnvironmentStore, max_bytes: int) -> None:
        self._environments = environments
        self._max_bytes = max_bytes
        self._wanted = asyncio.Event()

    def want(self) -> None:
        """Have a look soon: something was built."""
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
            done = await asyncio.to_thread(self._environments.collect, self._max_bytes)
        except (PlatformError, OSError) as error:
            log.warning("environments cannot be collected: %s", error)
            return
        if done is not None and done.before_bytes > self._max_bytes:
            log.info(
                "environments took %.1f GB and take %.1f GB now; %d were removed",
                done.before_bytes / 1e9,
                done.after_bytes / 1e9,
                len(done.environments),
            )
