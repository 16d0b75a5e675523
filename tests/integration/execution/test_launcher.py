"""Fork servers: kept where a fork is safe, bounded, and replaced when they die."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from dissmodel_platform.environments.leases import is_leased
from dissmodel_platform.environments.store import Environment
from dissmodel_platform.errors import ExecutorModuleMissing, ModelFailed, RunLost
from dissmodel_platform.execution.forkserver import Harness
from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.execution.references import InputReference
from dissmodel_platform.registry.spec import parse_spec
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.run import Runner, RunnerParts

pytestmark = pytest.mark.anyio


@pytest.fixture
async def environment(lab: Any) -> Environment:
    spec = parse_spec("models/inline.toml", lab.spec("draws")).spec
    prepared = await lab.parts.preparer.prepare(spec)
    found: Environment = prepared.environment
    return found


async def test_a_package_that_starts_threads_at_import_runs_in_a_fresh_process(lab: Any) -> None:
    module = "behaviours.threads_at_import"
    first = await lab.run("threads-at-import", executor_module=module)
    second = await lab.run("threads-at-import", executor_module=module)
    assert (first.outcome["start_mode"], second.outcome["start_mode"]) == ("fresh", "fresh")
    assert await lab.result(first) != await lab.result(second)


async def start(
    environment: Environment, module: str = "", *, room: Path, bare: bool = False
) -> Harness:
    return await Harness.start(environment, module, room, inspect_walls(), bare=bare)


async def test_threads_in_a_run_do_not_keep_the_next_one_from_a_fork(lab: Any) -> None:
    for _ in range(2):
        experiment = await lab.run("threads")
        assert experiment.outcome["start_mode"] == "fork"
        assert await lab.result(experiment) == "6"


async def test_the_runs_of_one_server_go_on_at_the_same_time(lab: Any) -> None:
    begin = asyncio.get_running_loop().time()
    ended = await asyncio.gather(*(lab.run("waits", {"seconds": 1}) for _ in range(4)))
    assert [experiment.status for experiment in ended] == ["completed"] * 4
    assert asyncio.get_running_loop().time() - begin < 3.5


async def test_the_least_recently_used_idle_server_is_retired(
    environment: Environment, tmp_path: Path
) -> None:
    launcher = Launcher(2, inspect_walls())
    modules = ["behaviours", "behaviours.growth", "behaviours.writing"]
    for module in modules:
        server = await launcher._server(_name(environment, module), environment, module, tmp_path)
        assert server is not None
        await launcher._retire()
        server.users -= 1
    assert list(launcher._servers) == [_name(environment, m) for m in modules[1:]]
    await launcher.close()


async def test_several_tasks_that_retire_at_once_do_not_get_in_one_anothers_way(
    environment: Environment, tmp_path: Path
) -> None:
    launcher = Launcher(1, inspect_walls())
    modules = [f"behaviours.{name}" for name in ("growth", "writing", "records", "reports")]
    servers = await asyncio.gather(
        *(launcher._server(_name(environment, m), environment, m, tmp_path) for m in modules)
    )
    for server in servers:
        assert server is not None
        server.users -= 1
    await asyncio.gather(*(launcher._retire() for _ in range(4)))
    assert len(launcher._servers) == 1
    await launcher.close()


async def test_closing_ends_servers_runs_and_fresh_processes(lab: Any) -> None:
    pids = []
    tasks = []
    for servers in (1, 0):
        launcher = Launcher(servers, inspect_walls())
        runner = Runner(RunnerParts(**{**vars(lab.parts), "launcher": launcher}))
        experiment = await lab.submit("waits")
        task = asyncio.create_task(runner.run(experiment.id))
        await lab.wait_for_line(experiment, "waiting as ")
        pids += lab.processes(experiment)
        await launcher.close()
        tasks.append(task)
    assert len(pids) == 2
    await asyncio.gather(*tasks)
    await lab.gone(*pids)


async def test_a_server_that_has_died_takes_no_run(
    environment: Environment, tmp_path: Path
) -> None:
    server = await start(environment, room=tmp_path)
    assert server.alive
    os.kill(server.process.pid, signal.SIGKILL)
    with pytest.raises(RunLost):
        await server.run(tmp_path / "run", {})
    assert not server.alive
    assert server.runs == {}
    await server.close()


@pytest.mark.parametrize("bare", [False, True])
async def test_an_environment_is_in_use_while_a_process_of_it_lives(
    environment: Environment, tmp_path: Path, bare: bool
) -> None:
    used = replace(environment, lease_file=tmp_path / "lease")
    harness = await start(used, room=tmp_path / "runs", bare=bare)
    assert is_leased(used.lease_file)
    await harness.close()
    assert not is_leased(used.lease_file)
    with pytest.raises(ExecutorModuleMissing):
        await start(used, "no_such_module", room=tmp_path / "runs")
    assert not is_leased(used.lease_file)


async def test_a_disk_that_refuses_a_start_leaves_no_environment_in_use(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = replace(environment, lease_file=tmp_path / "lease")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        await start(used, room=tmp_path / "runs")
    assert not is_leased(used.lease_file)


async def test_an_environment_is_in_use_while_inputs_are_fetched(lab: Any, tmp_path: Path) -> None:
    experiment = await lab.submit("draws", input_dataset=await lab.upload("1", "one.txt"))
    spec = parse_spec("models/inline.toml", lab.spec("draws")).spec
    prepared = await lab.parts.preparer.prepare(spec)
    used = replace(prepared.environment, lease_file=tmp_path / "lease")
    preparer, stager = AsyncMock(), Mock()
    preparer.prepare.return_value = replace(prepared, environment=used)
    seen: list[bool] = []

    def staging(references: list[InputReference], directory: Path) -> Any:
        seen.append(is_leased(used.lease_file))
        return lab.parts.stager.staging(references, directory)

    stager.staging = staging
    await Runner(replace(lab.parts, preparer=preparer, stager=stager)).run(experiment.id)
    assert (await lab.get(experiment)).status == "completed"
    assert seen == [True]


async def test_a_server_ends_when_its_worker_closes_the_channel(
    environment: Environment, tmp_path: Path
) -> None:
    server = await start(environment, room=tmp_path)
    server.channel.shutdown(socket.SHUT_WR)
    await server.process.wait()
    assert not server.alive
    await server.close()


async def test_an_import_that_ends_the_interpreter_leaves_nothing(
    environment: Environment, tmp_path: Path
) -> None:
    with pytest.raises(ModelFailed, match="exit code 9"):
        await start(environment, "behaviours.ends_at_import", room=tmp_path)


async def test_a_start_that_is_cancelled_ends_the_process(
    lab: Any, environment: Environment, tmp_path: Path
) -> None:
    before = _children()
    starting = asyncio.create_task(start(environment, "behaviours.hangs_at_import", room=tmp_path))
    await lab.until(lambda: _children() != before)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert _children() <= before


async def test_an_editable_package_runs_as_it_is_now_and_says_that_it_cannot_be_reproduced(
    lab: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("development") / "my model"
    shutil.copytree(Path(__file__).parents[2] / "packages" / "editable", source)
    module = source / "editable_model" / "__init__.py"
    first = await lab.run("editable", package=str(source))
    assert await lab.result(first) == "first version"
    module.write_text(module.read_text().replace("first version", "second version"))
    second = await lab.run("editable", package=str(source))
    assert await lab.result(second) == "second version"
    assert second.outcome["start_mode"] == "fresh"
    assert second.outcome["reproducible"] is False
    times, text = module.stat(), module.read_text()
    module.write_text(text.replace("second version", "sixth_ version"))
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))  # as archives and copies may have
    assert await lab.result(await lab.run("editable", package=str(source))) == "sixth_ version"
    assert not list(source.rglob("*.pyc"))
    assert first.outcome["environment_key"] == second.outcome["environment_key"]
    assert first.outcome["source_tree_sha256"] != second.outcome["source_tree_sha256"]
    module.write_text("syntax error\n")
    broken = await lab.run("editable", package=str(source))
    assert broken.status == "failed"
    assert "SyntaxError" in await lab.last_line(broken)


async def test_a_model_without_a_package_runs_with_the_built_in_executors(lab: Any) -> None:
    experiment = await lab.run("echo", {"message": "maré"}, package="")
    assert await lab.result(experiment) == "maré"
    assert experiment.outcome["start_mode"] == "fork"
    assert experiment.outcome["package_commit"] is None


def _name(environment: Environment, module: str) -> Any:
    return (environment.key, environment.distribution, module)


def _children() -> set[str]:
    """Return the process ids of our own children."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found.update((task / "children").read_text().split())
    return found
