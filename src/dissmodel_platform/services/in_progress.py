"""The runs of a worker: started by jobs of the queue, and then on their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dissmodel_platform.errors import DatabaseError

log = logging.getLogger(__name__)


class RunsInProgress:
    """Runs that do not end with the job that started them.

    The queue's own loop ends, and aborts its jobs, when the database breaks off for a moment. The
    runs belong to the worker instead: a job starts one, waits until there is room for the next one,
    and is over.

    Parameters
    ----------
    run : callable
        Runs the experiment with this id to its end, unless somebody else has it; a cancelled call
        hands it back.
    most : int
        Runs at the same time; `start` does not count, whoever calls it waits for `room` first.
    stop_seconds : float
        Longest time that a cancelled call takes.
    """

    def __init__(
        self, run: Callable[[str], Awaitable[None]], most: int, *, stop_seconds: float
    ) -> None:
        self._run = run
        self._most = most
        self._stop_seconds = stop_seconds
        self._tasks: dict[asyncio.Task[None], str] = {}

    def __contains__(self, experiment_id: object) -> bool:
        """Whether a run of this experiment is in progress."""
        return experiment_id in self._tasks.values()

    def __len__(self) -> int:
        """Count the runs in progress."""
        return len(self._tasks)

    def start(self, experiment_id: str) -> None:
        """Start a run; two for one experiment are no harm, since one of them can claim it."""
        task = asyncio.create_task(self._guarded(experiment_id))
        self._tasks[task] = experiment_id
        task.add_done_callback(self._tasks.pop)

    async def room(self) -> None:
        """Wait until another run may start."""
        while len(self._tasks) >= self._most:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def ended(self) -> None:
        """Wait until no run is in progress."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def hand_back(self) -> None:
        """Stop every run; after this, their experiments are handed back and their processes gone.

        (Where the database is away, the reconciler hands them back later.)
        """
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # Once more only for what a library has swallowed: it would interrupt the stopping.
            await asyncio.wait(self._tasks, timeout=self._stop_seconds)

    async def _guarded(self, experiment_id: str) -> None:
        try:
            await self._run(experiment_id)
        except DatabaseError as error:  # nobody has claimed it: the reconciler wakes somebody
            log.warning("experiment %s: %s", experiment_id, error)
        except Exception:
            log.exception("experiment %s", experiment_id)
