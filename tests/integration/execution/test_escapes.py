"""What a model cannot do from inside a run, tried by a model, behind both walls and behind each."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.sandbox.walls import LANDLOCK, NAMESPACES, Walls, inspect_walls
from dissmodel_platform.services.run import Runner

pytestmark = pytest.mark.anyio

# Landlock has no rule for UDP and sockets with a path, and none for signals before its ABI 6.
NOT_LANDLOCKS = {
    "signal the worker", "signal its server", "send to a stranger", "reach the database",
}  # fmt: skip


@pytest.fixture
def aims(lab: Any, database_url: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Everything that there is to get at."""
    secret = tmp_path / "secret"
    secret.write_text("an API key")
    packages = lab.parts.settings.packages_directory
    key = lab.parts.settings.home / "a-key"
    key.write_text("an API key")
    other = packages.resolve() / "environments" / "other"
    other.mkdir()
    database = socket.socket(socket.AF_UNIX)
    database.bind(f"/tmp/dmp-{os.getpid()}.socket")
    database.listen()
    beyond = socket.create_server(("127.0.0.1", 0))
    friend = socket.socket(socket.AF_UNIX)
    friend.bind(f"\0dmp-{os.getpid()}")
    friend.listen()
    yield {
        # without their first slash: paths of the server are no parameters
        "secret": str(secret)[1:],
        "home": str(lab.parts.settings.home)[1:],
        "environment": str(other)[1:],
        "temporary": "dev/shm",
        "worker": os.getpid(),
        "database": database.getsockname()[1:],
        "port": beyond.getsockname()[1],
        "abstract": f"dmp-{os.getpid()}",
    }
    Path(database.getsockname()).unlink()
    database.close()
    beyond.close()
    friend.close()
    other.rmdir()
    key.unlink()


@pytest.fixture(params=["both", NAMESPACES, LANDLOCK])
def walls(request: pytest.FixtureRequest) -> Walls:
    standing = inspect_walls()
    assert standing.runs == (NAMESPACES, LANDLOCK), standing.missing
    return standing if request.param == "both" else replace(standing, runs=(request.param,))


@pytest.fixture(params=[1, 0], ids=["fork", "fresh"])
async def runner(lab: Any, walls: Walls, request: pytest.FixtureRequest) -> AsyncIterator[Runner]:
    launcher = Launcher(request.param, walls)
    yield Runner(replace(lab.parts, launcher=launcher))
    await launcher.close()


async def test_a_model_gets_at_nothing_but_its_own_directory(
    lab: Any, runner: Runner, walls: Walls, aims: dict[str, Any]
) -> None:
    victim = await lab.submit("escapes", {**aims, "other": "nowhere", "server": 1, "seconds": 60})
    waiting = asyncio.create_task(runner.run(victim.id))
    await lab.wait_for_line(victim, "tried as ")
    [other] = lab.parts.settings.runs_directory.resolve().glob(f"*/{victim.id}-1")
    [process] = lab.processes(victim)
    aims |= {"other": str(other)[1:], "server": _parent(process)}
    attacker = await lab.run("escapes", {**aims, "says": "mine"}, runner=runner)
    managed = json.loads(await lab.result(attacker))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (other / "outputs" / "mine.txt").exists() is False
    assert managed.pop("directory").endswith("/outputs")
    assert isinstance(managed.pop("pid"), int)
    if NAMESPACES not in walls.runs:
        managed = {name: got for name, got in managed.items() if name not in NOT_LANDLOCKS}
    if "write to a temporary file of all" in managed and NAMESPACES in walls.runs:
        assert managed.pop("write to a temporary file of all") == "written"
        assert not Path("/dev/shm/planted").exists(), "it was the run's own"
    got_through = {name: got for name, got in managed.items() if not _is_refusal(got)}
    assert got_through == {}


async def test_what_a_model_leaves_in_other_sessions_ends_with_its_run(lab: Any) -> None:
    experiment = await lab.run("outlives")
    assert await lab.result(experiment) == "left"
    await lab.until(lambda: not lab.processes(experiment))


def _is_refusal(got: Any) -> bool:
    return isinstance(got, str) and got.endswith(("Error", "error"))


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
