"""Builds of one machine: so many at a time, in whatever process they are."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.packages import PackageRequest
from dissmodel_platform.environments.slots import build_slot
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.errors import BuildInterrupted
from tests.processes import wait_until

_HOLD = """
import sys, time
from pathlib import Path
from dissmodel_platform.environments.slots import build_slot
with build_slot(Path(sys.argv[1]), 2, lambda: None):
    print("has it", flush=True)
    time.sleep(600)
"""


def test_so_many_threads_are_inside_at_once_and_each_has_its_turn(tmp_path: Path) -> None:
    guard, inside, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=30)

    def work(number: int) -> None:
        nonlocal inside, most
        with build_slot(tmp_path, 2, lambda: None):
            with guard:
                inside += 1
                most = max(most, inside)
            both.wait()
            with guard:
                inside -= 1

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(work, range(6))) == [None] * 6
    assert most == 2


def test_a_place_is_free_when_its_process_was_killed(tmp_path: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with build_slot(tmp_path, 2, lambda: None):
            entered.set()

    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as first,
        subprocess.Popen(command, stdout=subprocess.PIPE) as second,
    ):
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == b"has it\n"
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.5)
        first.kill()
        assert entered.wait(30)
        thread.join()
        second.kill()


@pytest.mark.parametrize("step", ["lock", "acquire"])
def test_locking_and_building_wait_for_a_place_unless_the_worker_is_stopped(
    make_store: Callable[..., EnvironmentStore], small: Callable[..., PackageRequest], step: str
) -> None:
    store = make_store()
    request = small("good")
    lock = store.lock(request) if step == "acquire" else None
    with (
        build_slot(store.layout.locks, 2, lambda: None),
        build_slot(store.layout.locks, 2, lambda: None),
        ThreadPoolExecutor(1) as thread,
    ):
        call: Callable[..., Any] = store.acquire if lock else store.lock
        waiting = thread.submit(call, *([lock, request] if lock else [request]))
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        assert not list(store.layout.scratch.iterdir()), "nothing has begun"
        store.interrupt()
        assert isinstance(waiting.exception(30), BuildInterrupted)


def test_what_is_ready_waits_for_no_place(
    store: EnvironmentStore, small: Callable[..., PackageRequest]
) -> None:
    request = small("good")
    lock = store.lock(request)
    built = store.acquire(lock, request)
    assert set(built.parts) == {"wait", "install", "bytecode", "check"}
    with (
        build_slot(store.layout.locks, 2, lambda: None),
        build_slot(store.layout.locks, 2, lambda: None),
    ):
        assert not store.acquire(lock, request).built
    wait_until(lambda: not list(store.layout.scratch.iterdir()), "nothing is left")
