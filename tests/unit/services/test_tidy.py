"""A worker looks after the sizes of its caches in the background."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dissmodel_platform.environments.collection import Collected
from dissmodel_platform.services import tidy
from dissmodel_platform.services.tidy import Tidier

pytestmark = pytest.mark.anyio


class Store:
    """Counts collections; the first one fails."""

    def __init__(self) -> None:
        self.limits: list[int] = []

    def collect(self, max_bytes: int) -> Collected:
        self.limits.append(max_bytes)
        if len(self.limits) == 1:
            raise OSError("the disk refused")
        return Collected(("key",), 3_000_000_000, 1_000_000_000)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_it_looks_when_something_was_built_and_goes_on_after_a_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    store = Store()
    tidier = Tidier(store, 2_000_000_000, what="inputs")
    task = asyncio.create_task(tidier.run())
    for count in (1, 2):
        tidier.want()
        await until(lambda count=count: len(store.limits) == count)
    await until(lambda: len(caplog.messages) == 2)
    assert set(store.limits) == {2_000_000_000}
    assert caplog.messages[0] == "inputs cannot be collected: the disk refused"
    assert "inputs took 3.0 GB and take 1.0 GB now; 1 were removed" in caplog.messages[1]
    task.cancel()


async def test_it_looks_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidy, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(tidy, "_INTERVAL_SECONDS", 0.01)
    store = Store()
    task = asyncio.create_task(Tidier(store, 1).run())
    await until(lambda: len(store.limits) >= 3)
    task.cancel()
