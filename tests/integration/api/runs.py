"""Experiments that run without a worker: a test says what they tell."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.execution.events import Change, LogLine
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.transitions import claim, complete, insert, report
from dissmodel_platform.types import ExperimentId, Priority
from tests.integration.experiments.conftest import SUBMISSION


class Runs:
    """Makes them for tests that need no event loop."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, *steps: str, lines: int = 0, width: int = 10) -> Experiment:
        return asyncio.run(self._do(None, steps, lines, width))

    def tell(self, experiment: Experiment, *steps: str, lines: int = 0, width: int = 10) -> None:
        asyncio.run(self._do(experiment, steps, lines, width))

    async def _do(
        self, experiment: Experiment | None, steps: tuple[str, ...], lines: int, width: int
    ) -> Experiment:
        database = Database(self._url, max_connections=2)
        await database.open()
        await migrate(database)
        if experiment is None:
            async with database.transaction() as connection:
                new = await insert(
                    connection, ExperimentId(uuid4().hex), SUBMISSION, submitted_by="a test",
                    priority=Priority.NORMAL,
                )  # fmt: skip
            experiment = await claim(database, new.id, uuid4())
        assert experiment is not None
        text = "á" * width
        for step in steps:
            if step == "phase":
                await report(
                    database, experiment, [Change("phase", {"phase": "run"})], {"phase": "run"}
                )
            elif step == "lines":
                printed = [LogLine("stderr", f"{number} {text}") for number in range(lines)]
                await report(database, experiment, printed, None)
            else:
                async with database.transaction() as connection:
                    await complete(connection, experiment, {}, [], [])
        await database.close()
        return experiment
