"""However a model ends, its experiment ends in one state, and its log's last line says why."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.experiments.transitions import MOST_LOSSES
from dissmodel_platform.registry.spec import parse_spec
from dissmodel_platform.services.submit import RunRequest

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("phase", ["validate", "load", "run", "save"])
async def test_a_model_that_raises_fails_with_its_message_last_and_the_traceback_above(
    lab: Any, phase: str
) -> None:
    experiment = await lab.run("raises", {"phase": phase})
    assert experiment.status == "failed"
    *above, last = await lab.log(experiment)
    assert last.text == "the elevation of cell 7 is missing"
    printed = [line.text for line in above if line.stream == "stderr"]
    assert printed[0] == "Traceback (most recent call last):"
    assert printed[-1] == "ValueError: the elevation of cell 7 is missing"
    assert any("endings.py" in text for text in printed)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("sys.exit", "The model called sys.exit(3); a model must raise instead."),
        (
            "os._exit",
            "The model ended its own process with exit code 7; a model must raise instead.",
        ),
        ("SIGSEGV", "The model's process was ended by SIGSEGV; run it on your own machine."),
        ("SIGABRT", "The model's process was ended by SIGABRT; run it on your own machine."),
    ],
)
async def test_a_model_that_ends_its_process_fails_at_once(lab: Any, how: str, reason: str) -> None:
    experiment = await lab.run("ends", {"how": how})
    assert (experiment.status, experiment.attempt) == ("failed", 1)
    assert await lab.last_line(experiment) == reason


async def test_the_environment_of_a_run_that_failed_is_looked_at_again(lab: Any) -> None:
    spec = parse_spec("models/inline.toml", lab.spec("raises")).spec
    assert (await lab.run("raises", {"phase": "load"})).status == "failed"
    environment = (await lab.parts.preparer.prepare(spec)).environment
    [metadata] = environment.directory.glob("lib/*/site-packages/behaviours-*/METADATA")
    os.utime(metadata, (0, 0))
    assert (await lab.parts.preparer.prepare(spec)).environment.build == environment.build
    assert (await lab.run("raises", {"phase": "load"})).status == "failed"
    mended = (await lab.parts.preparer.prepare(spec)).environment
    assert mended.build != environment.build


async def test_a_run_that_is_killed_from_outside_is_run_again(lab: Any) -> None:
    experiment = await lab.submit("waits", {"seconds": 3})
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    [run] = lab.processes(experiment)
    os.kill(run, signal.SIGKILL)
    await running
    handed_back = await lab.get(experiment)
    assert handed_back.status == "pending"
    assert "will be run again" in await lab.last_line(experiment)
    await lab.runner().run(experiment.id)
    ended = await lab.get(experiment)
    assert ended.attempt == 2
    assert await lab.result(ended) == "waited"


async def test_a_run_that_is_always_killed_fails_after_the_last_attempt(lab: Any) -> None:
    experiment = await lab.submit("ends", {"how": "SIGKILL"})
    for _ in range(MOST_LOSSES):
        assert (await lab.get(experiment)).status == "pending"
        await lab.runner().run(experiment.id)
    ended = await lab.get(experiment)
    assert (ended.status, ended.attempt) == ("failed", MOST_LOSSES)
    assert "given up after 3 attempts" in await lab.last_line(experiment)


async def test_a_killed_fork_server_costs_an_attempt_and_a_new_one_takes_its_place(
    lab: Any,
) -> None:
    experiment = await lab.submit("waits", {"seconds": 3})
    running = asyncio.create_task(lab.runner().run(experiment.id))
    await lab.wait_for_line(experiment, "waiting as ")
    [run] = lab.processes(experiment)
    os.kill(_parent(run), signal.SIGKILL)
    await running
    await lab.gone(run)
    assert (await lab.get(experiment)).status == "pending"
    await lab.runner().run(experiment.id)
    ended = await lab.get(experiment)
    assert await lab.result(ended) == "waited"
    assert ended.outcome["start_mode"] == "fork"


async def test_the_time_limit_ends_a_run_that_is_deaf_to_sigterm(lab: Any) -> None:
    runner = lab.runner(run_timeout_seconds=1.5, cancel_grace_seconds=0.1)
    experiment = await lab.run("waits", {"deaf": True}, runner=runner)
    assert experiment.status == "failed"
    assert "after its time limit of 1.5 s" in await lab.last_line(experiment)
    assert await lab.wait_for_line(experiment, "waiting as ")
    await lab.until(lambda: not lab.processes(experiment))


async def test_the_memory_limit_fails_the_run_alone(lab: Any) -> None:
    runner = lab.runner(run_memory_bytes=2 * 10**9)
    experiment = await lab.run("hoards", {"bytes": 8 * 10**9}, runner=runner)
    assert experiment.status == "failed"
    assert "memory limit of 2 GB reached" in await lab.last_line(experiment)
    assert (await lab.run("draws")).status == "completed"


@pytest.mark.parametrize(
    ("what", "limit", "reason"),
    [
        ("memory", {"run_memory_bytes": 400 * 10**6}, "memory limit of 400 MB reached"),
        ("memory of children", {"run_memory_bytes": 400 * 10**6}, "memory limit of 400 MB reached"),
        ("processes", {"run_processes": 20}, "limit of 20 processes reached"),
        ("time", {"run_cpu_seconds": 1.0}, "processor time limit of 1 s reached"),
        ("disk", {"run_disk_bytes": 50 * 10**6}, "disk limit of 50 MB reached"),
        ("one file", {"run_disk_bytes": 50 * 10**6}, "disk limit of 50 MB reached"),
    ],
)
async def test_a_run_that_takes_more_than_it_may_is_ended_with_the_reason(
    lab: Any, what: str, limit: dict[str, Any], reason: str
) -> None:
    experiment = await lab.run("greedy", {"what": what}, runner=lab.runner(**limit))
    assert (experiment.status, experiment.attempt) == ("failed", 1)
    assert f"The run was ended: {reason}; " in await lab.last_line(experiment)
    await lab.until(lambda: not lab.processes(experiment))
    assert (await lab.run("draws")).outcome["start_mode"] == "fork", "the server has outlived it"


async def test_a_spec_can_ask_for_less_and_for_threads(lab: Any) -> None:
    source = lab.spec("greedy") + '[model.resources]\nprocesses = 12\nmemory = "2 GB"\n'
    request = RunRequest("", parameters={"what": "processes"})
    experiment = await lab.submitter.submit_inline(source, request, submitted_by="a test")
    await lab.runner(run_processes=500).run(experiment.id)
    assert "limit of 12 processes reached" in await lab.last_line(experiment)
    source = lab.spec("describes") + "[model.resources]\ncores = 2\n"
    request = RunRequest("")
    experiment = await lab.submitter.submit_inline(source, request, submitted_by="a test")
    await lab.runner().run(experiment.id)
    seen = json.loads(await lab.result(await lab.get(experiment)))
    assert seen["environment"]["OMP_NUM_THREADS"] == "2"


async def test_a_class_that_the_package_does_not_register_is_answered_with_those_it_does(
    lab: Any,
) -> None:
    experiment = await lab.run("flood")
    assert experiment.status == "failed"
    reason = await lab.last_line(experiment)
    assert "registers no executor 'flood'" in reason
    assert "growth" in reason
    assert "writes-everywhere" in reason


async def test_a_spec_without_a_class_is_answered_with_those_that_there_are(lab: Any) -> None:
    experiment = await lab.run(None)
    assert experiment.status == "failed"
    reason = await lab.last_line(experiment)
    assert "The spec has no `class` under [model]" in reason
    assert "growth" in reason


async def test_an_executor_of_an_older_dissmodel_is_told_what_to_change(lab: Any) -> None:
    experiment = await lab.run("old-style", executor_module="behaviours.old_style")
    assert experiment.status == "failed"
    assert "OldStyle.run() does not take (data, record)" in await lab.last_line(experiment)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("behaviours.raises_at_import", "RuntimeError: this module needs a licence file"),
        ("behaviours.no_such_module", "No module named 'behaviours.no_such_module'"),
        ("behaviours.ends_at_import", "ended the interpreter (exit code 9)"),
    ],
)
async def test_a_module_that_cannot_be_imported_fails_with_the_cause(
    lab: Any, module: str, reason: str
) -> None:
    experiment = await lab.run("growth", executor_module=module)
    assert (experiment.status, experiment.attempt) == ("failed", 1)
    assert reason in await lab.last_line(experiment)


async def test_an_import_that_does_not_end_is_ended_by_the_time_limit(lab: Any) -> None:
    runner = lab.runner(run_timeout_seconds=1.5)
    experiment = await lab.run(
        "growth", runner=runner, executor_module="behaviours.hangs_at_import"
    )
    assert experiment.status == "failed"
    assert "time limit" in await lab.last_line(experiment)


async def test_a_package_that_cannot_be_installed_fails_with_one_sentence_under_the_tools_words(
    lab: Any, repositories: Any
) -> None:
    experiment = await lab.run("x", package=repositories.requirement("wrong-python"))
    assert experiment.status == "failed"
    *above, last = await lab.log(experiment)
    assert "wrong-python" in last.text
    assert "no matching Python" in last.text
    assert any("does not satisfy Python>=3.99" in line.text for line in above)
    row = await lab.database.fetch_one(
        "SELECT state, error FROM environments WHERE package = %(package)s",
        package=repositories.requirement("wrong-python"),
    )
    assert row == {"state": "failed", "error": last.text}


async def test_what_is_left_of_a_run_is_removed_however_it_ended(lab: Any) -> None:
    await lab.run("raises")
    await lab.run("draws")
    left = {path.name for path in lab.parts.settings.runs_directory.glob("*/*")}
    assert left <= {"servers"}


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])
