"""Start runs: a fork of a preloaded process where that is safe, a fresh process elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path

from dissmodel_platform.environments.store import Environment
from dissmodel_platform.errors import RunLost
from dissmodel_platform.execution.forkserver import Harness, HarnessRefused, Run
from dissmodel_platform.sandbox.walls import Walls
from dissmodel_platform.types import EnvironmentKey

ServerName = tuple[EnvironmentKey, str, str, str]


class Launcher:
    """The fork servers of one worker.

    Parameters
    ----------
    most_servers : int
        Environments kept preloaded; the least recently used idle one is retired beyond that.
    walls : Walls
        Those that stand on this machine.

    Attributes
    ----------
    starts : Counter of str
        Runs that were started: ``hit`` (by a fork server that was there), ``miss`` (by one that was
        started first), ``fresh``; whoever adds them up takes them away.
    """

    def __init__(self, most_servers: int, walls: Walls) -> None:
        self._most = most_servers
        self._walls = walls
        self.starts: Counter[str] = Counter()
        self._servers: OrderedDict[ServerName, Harness] = OrderedDict()
        self._unforkable: set[ServerName] = set()
        self._starting: dict[ServerName, asyncio.Lock] = {}
        self._fresh: set[Harness] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self,
        environment: Environment,
        module: str,
        directory: Path,
        limits: Mapping[str, int],
        *,
        cores: int = 1,
        fork: bool,
    ) -> Run:
        """Start the run that ``directory/request.json`` describes.

        Parameters
        ----------
        environment : Environment
            Where the model is installed.
        module : str
            The spec's ``executor_module``, or empty.
        directory : Path
            The run's own directory, right below one that holds runs of this environment alone.
        limits : mapping of str to int
            Limits of each of its processes by name (``RLIMIT_DATA`` in bytes, …).
        cores : int
            Threads that numerical libraries use.
        fork : bool
            Whether a preloaded process may be used; false for editable packages.

        Raises
        ------
        ExecutorModuleMissing, ModelFailed
            The package cannot be imported.
        RunLost
            The machinery failed.
        """
        name = (environment.key, environment.build, environment.distribution, module)
        if fork and self._most > 0 and name not in self._unforkable:
            with contextlib.suppress(HarnessRefused):
                known = self._servers.get(name)
                server = await self._server(name, environment, module, directory.parent)
                if server is not None:
                    try:
                        await self._retire()
                        run = await server.run(directory, limits, cores)
                        self.starts["hit" if server is known else "miss"] += 1
                        return run
                    finally:
                        server.users -= 1
            self._unforkable.add(name)
        run = await self._start_fresh(environment, module, directory, limits, cores)
        self.starts["fresh"] += 1
        return run

    async def close(self) -> None:
        """End every process of the worker's runs."""
        harnesses = [*self._servers.values(), *self._fresh]
        self._servers.clear()
        await asyncio.gather(*(harness.close() for harness in harnesses))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _server(
        self, name: ServerName, environment: Environment, module: str, room: Path
    ) -> Harness | None:
        """Return the preloaded process, starting it if need be; ``None`` where it cannot fork."""
        async with self._starting.setdefault(name, asyncio.Lock()):
            server = self._servers.get(name)
            if server is not None and not server.alive:
                await self._servers.pop(name).close()
                server = None
            if server is None:
                server = await Harness.start(environment, module, room, self._walls, bare=False)
                if not server.forkable:
                    await server.close()
                    return None
                self._servers[name] = server
            self._servers.move_to_end(name)
            server.users += 1
        return server

    async def _retire(self) -> None:
        """End the least recently used idle servers beyond the bound."""
        for name in list(self._servers)[:-1]:
            if len(self._servers) <= self._most:
                return
            server = self._servers.get(name)  # another task may have retired it meanwhile
            if server is not None and not server.runs and not server.users:
                await self._servers.pop(name).close()

    async def _start_fresh(
        self,
        environment: Environment,
        module: str,
        directory: Path,
        limits: Mapping[str, int],
        cores: int,
    ) -> Run:
        """Run in a process that imports for itself."""
        room = directory.parent
        harness = await Harness.start(environment, module, room, self._walls, bare=True)
        try:
            run = await harness.run(directory, limits, cores)
        except HarnessRefused as error:
            await harness.close()
            raise RunLost("a bare interpreter has more than one thread here") from error
        except BaseException:
            await harness.close()
            raise
        self._fresh.add(harness)
        task = asyncio.create_task(self._close_after(run, harness))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def _close_after(self, run: Run, harness: Harness) -> None:
        """Clean up behind a fresh run once it has ended."""
        await run.exit
        self._fresh.discard(harness)
        await harness.close()
