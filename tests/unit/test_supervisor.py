import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import dissmodel_platform
from dissmodel_platform.errors import PlatformError
from dissmodel_platform.supervisor import BackOff, Role, Supervisor
from tests.processes import is_running, wait_until

SOURCE = str(Path(dissmodel_platform.__file__).parents[1])

# What every program of these tests begins with: `tell` adds a line to the common journal.
PREFACE = """
import json, os, signal, subprocess, sys, time
def tell(*words):
    descriptor = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (json.dumps(words) + "\\n").encode())
    os.close(descriptor)
def on_term(signum, frame):
    tell("asked", NAME)
    sys.exit(0)
NAME = sys.argv[1]
"""

POLITE = """
signal.signal(signal.SIGTERM, on_term)
tell("started", NAME, os.getpid())
while True: time.sleep(60)
"""

# Ignores the request to end, and so does its child.
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["/bin/sleep", "600"])
tell("started", NAME, os.getpid(), child.pid)
while True: time.sleep(60)
"""

# Dies as soon as it has started, leaving a child behind.
BRIEF = """
child = subprocess.Popen(["/bin/sleep", "600"])
tell("started", NAME, os.getpid(), child.pid)
sys.exit(3)
"""

BOUND = """
from dissmodel_platform.processes import die_with_supervisor
signal.signal(signal.SIGTERM, on_term)
die_with_supervisor()
tell("started", NAME, os.getpid())
while True: time.sleep(60)
"""

DRIVER = """
from dissmodel_platform.supervisor import BackOff, Role, Supervisor
given = json.loads(sys.argv[2])
def on_exit(role, pid, code):
    tell("ended", role.name, pid, code)
    if given.get("on_exit_fails"):
        raise RuntimeError("the database is away")
roles = [Role(name, command, dict(os.environ)) for name, command in given["roles"]]
back_off = BackOff(first_seconds=0.05, longest_seconds=0.4, settled_seconds=given["settled"])
tell("returned", Supervisor(
    roles, stop_grace_seconds=given["grace"], on_exit=on_exit, back_off=back_off
).run())
"""


def program(text: str, name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", PREFACE + text, name, *arguments]


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, *beginning: str) -> list[list[Any]]:
        text = self.path.read_text() if self.path.exists() else ""
        read = [json.loads(line) for line in text.splitlines()]
        return [words for words in read if words[: len(beginning)] == list(beginning)]

    def await_lines(self, *beginning: str, count: int = 1) -> list[list[Any]]:
        wait_until(lambda: len(self.lines(*beginning)) >= count, f"{count} of {beginning}")
        return self.lines(*beginning)

    def pids(self) -> list[int]:
        return [pid for words in self.lines("started") for pid in words[2:]]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    for pid in journal.pids():
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def environment(journal: Journal) -> dict[str, str]:
    return {"PATH": os.defpath, "PYTHONPATH": SOURCE, "JOURNAL": str(journal.path)}


Supervise = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def supervise(environment: dict[str, str], tmp_path: Path) -> Iterator[Supervise]:
    """Starts a supervisor in a process of its own, and leaves none."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        *roles: tuple[str, str], grace: float = 30, settled: float = 60, **given: object
    ) -> subprocess.Popen[bytes]:
        commands = [(name, program(text, name)) for name, text in roles]
        options = {"roles": commands, "grace": grace, "settled": settled, **given}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                program(DRIVER, "driver", json.dumps(options)), env=environment, stderr=log
            )
        started.append(process)
        return process

    yield start
    for process in started:
        for _ in range(2):  # the second one shortens the grace
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        process.wait(30)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_roles_and_the_supervisor_ends_well(
    supervise: Supervise, journal: Journal, signum: int
) -> None:
    supervisor = supervise(("api", POLITE), ("worker", POLITE))
    journal.await_lines("started", count=2)
    supervisor.send_signal(signum)
    assert supervisor.wait(30) == 0
    assert {words[1] for words in journal.lines("asked")} == {"api", "worker"}
    assert {(words[1], words[3]) for words in journal.lines("ended")} == {("api", 0), ("worker", 0)}
    assert journal.lines("returned") == [["returned", 0]]
    assert not any(is_running(pid) for pid in journal.pids())


def test_roles_are_asked_to_end_in_the_reverse_order(
    environment: dict[str, str], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    kill = os.kill

    def note(pid: int, signum: int) -> None:
        asked.append(pid)
        kill(pid, signum)

    def watch() -> None:
        if len(journal.lines("started")) == 3:
            monkeypatch.setattr(os, "kill", note)
            raise StopIteration

    names = ["one", "two", "three"]
    roles = [Role(name, program(POLITE, name), environment) for name in names]
    with pytest.raises(StopIteration):
        Supervisor(roles, stop_grace_seconds=30, watch=watch).run()
    monkeypatch.undo()
    pids = {words[1]: words[2] for words in journal.lines("started")}
    assert asked == [pids[name] for name in reversed(names)]


def test_a_role_that_is_killed_is_reported_and_restarted_while_the_others_go_on(
    supervise: Supervise, journal: Journal
) -> None:
    supervise(("api", POLITE), ("worker", POLITE))
    [[*_, api]] = journal.await_lines("started", "api")
    [[*_, first]] = journal.await_lines("started", "worker")
    os.kill(first, signal.SIGKILL)
    [_, [*_, second]] = journal.await_lines("started", "worker", count=2)
    assert second != first
    assert journal.lines("ended") == [["ended", "worker", first, -signal.SIGKILL]]
    assert is_running(api)
    assert len(journal.lines("started", "api")) == 1


def test_a_dead_role_is_no_zombie_and_what_it_left_behind_is_ended(
    supervise: Supervise, journal: Journal
) -> None:
    supervise(("worker", STUBBORN))
    [[*_, worker, child]] = journal.await_lines("started", "worker")
    os.kill(worker, signal.SIGKILL)
    journal.await_lines("ended", "worker")
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    wait_until(lambda: not is_running(child), "the dead role's child has ended")


def test_a_role_that_keeps_dying_waits_longer_each_time(
    supervise: Supervise, journal: Journal
) -> None:
    supervisor = supervise(("worker", BRIEF))
    journal.await_lines("started", "worker", count=5)
    assert supervisor.poll() is None
    supervisor.terminate()
    assert supervisor.wait(30) == 0
    ended = journal.lines("ended", "worker")
    assert [code for *_, code in ended[:4]] == [3, 3, 3, 3]  # the fifth may have been stopped
    assert len({pid for _, _, pid, _ in ended}) == len(ended)
    wait_until(lambda: not any(map(is_running, journal.pids())), "all children have ended")


def test_pauses_double_up_to_the_longest() -> None:
    back_off = BackOff(first_seconds=0.5, longest_seconds=5)
    pauses = [back_off.pause_seconds(failures) for failures in (1, 2, 3, 4, 5, 6, 10_000)]
    assert pauses == [0.5, 1, 2, 4, 5, 5, 5]


def test_a_role_that_lived_a_while_is_restarted_as_after_its_first_death(
    environment: dict[str, str], journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    def watch() -> None:
        if len(journal.lines("started")) >= 4:
            raise StopIteration

    caplog.set_level("DEBUG", logger="dissmodel_platform.supervisor")
    back_off = BackOff(first_seconds=0.01, longest_seconds=60, settled_seconds=0)
    role = Role("worker", program(BRIEF, "worker"), environment)
    with pytest.raises(StopIteration):
        Supervisor([role], stop_grace_seconds=30, watch=watch, back_off=back_off).run()
    pauses = {record.args[1] for record in caplog.records if "may start again" in record.msg}  # type: ignore[index]
    assert pauses == {0.01}


def test_roles_that_do_not_end_are_killed_with_their_children_after_the_grace(
    supervise: Supervise, journal: Journal
) -> None:
    supervisor = supervise(("api", POLITE), ("worker", STUBBORN), grace=0.3)
    [[*_, worker, child]] = journal.await_lines("started", "worker")
    journal.await_lines("started", "api")
    supervisor.terminate()
    assert supervisor.wait(30) == 0
    assert ["ended", "worker", worker, -signal.SIGKILL] in journal.lines("ended")
    wait_until(lambda: not is_running(child), "the role's child has ended")


def test_a_second_interrupt_shortens_the_grace(supervise: Supervise, journal: Journal) -> None:
    supervisor = supervise(("api", POLITE), ("worker", STUBBORN), grace=3_600)
    journal.await_lines("started", count=2)
    supervisor.send_signal(signal.SIGINT)
    journal.await_lines("asked", "api")
    assert supervisor.poll() is None
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(30) == 0
    wait_until(lambda: not any(map(is_running, journal.pids())), "all have ended")


def test_the_terminals_interrupt_reaches_the_supervisor_only(
    supervise: Supervise, journal: Journal
) -> None:
    supervise(("api", POLITE))
    [[*_, pid]] = journal.await_lines("started", "api")
    assert os.getpgid(pid) == os.getsid(pid) == pid


def test_the_roles_of_a_killed_supervisor_end(supervise: Supervise, journal: Journal) -> None:
    supervisor = supervise(("api", BOUND), ("worker", BOUND))
    journal.await_lines("started", count=2)
    supervisor.kill()
    wait_until(lambda: not any(map(is_running, journal.pids())), "all roles have ended")
    assert len(journal.lines("asked")) == 2


def test_a_failure_of_what_follows_a_death_is_logged_and_the_role_restarted(
    supervise: Supervise, journal: Journal, tmp_path: Path
) -> None:
    supervisor = supervise(("worker", POLITE), on_exit_fails=True)
    [[*_, first]] = journal.await_lines("started", "worker")
    os.kill(first, signal.SIGKILL)
    journal.await_lines("started", "worker", count=2)
    supervisor.terminate()
    assert supervisor.wait(30) == 0
    assert "the database is away" in (tmp_path / "log").read_text()


def test_a_signal_that_arrives_while_roles_are_being_started_is_not_lost(
    environment: dict[str, str], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen
    started = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        started.append(popen(*arguments, **options))
        signal.raise_signal(signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    roles = [Role(name, program(POLITE, name), environment) for name in ("one", "two")]
    assert Supervisor(roles, stop_grace_seconds=30).run() == 0
    assert [process.returncode is not None for process in started] == [True]


def test_what_the_watch_raises_ends_everything(
    environment: dict[str, str], journal: Journal
) -> None:
    def watch() -> None:
        if journal.lines("started"):
            raise PlatformError("PostgreSQL ended")

    role = Role("api", program(POLITE, "api"), environment)
    with pytest.raises(PlatformError, match="PostgreSQL ended"):
        Supervisor([role], stop_grace_seconds=30, watch=watch).run()
    assert journal.lines("asked", "api")
    assert not any(is_running(pid) for pid in journal.pids())


def test_a_program_that_does_not_exist_is_named_and_what_runs_is_stopped(
    environment: dict[str, str], journal: Journal
) -> None:
    roles = [
        Role("api", program(POLITE, "api"), environment),
        Role("worker", ["/nowhere/worker"], environment),
    ]
    ended: list[str] = []
    supervisor = Supervisor(
        roles, stop_grace_seconds=30, on_exit=lambda role, pid, code: ended.append(role.name)
    )
    with pytest.raises(PlatformError, match=r"worker role cannot be started.*'/nowhere/worker'"):
        supervisor.run()
    assert ended == ["api"]


def test_a_program_that_vanishes_for_a_while_is_tried_again(
    environment: dict[str, str],
    journal: Journal,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    role_program = tmp_path / "worker"
    started_before: list[int] = []

    def install() -> None:
        role_program.write_text(f"#!/bin/sh\nexec {shlex.join(program(BRIEF, 'worker'))}\n")
        role_program.chmod(0o700)

    def watch() -> None:
        started = len(journal.lines("started"))
        failed = len([record for record in caplog.records if "cannot be started" in record.msg])
        if started and not failed:
            role_program.unlink(missing_ok=True)
        elif failed >= 2 and not started_before:
            started_before.append(started)
            install()
        elif started_before and started > started_before[0]:
            raise StopIteration

    install()
    back_off = BackOff(first_seconds=0.01, longest_seconds=0.05)
    role = Role("worker", [str(role_program)], environment)
    with pytest.raises(StopIteration):
        Supervisor([role], stop_grace_seconds=30, watch=watch, back_off=back_off).run()


def test_the_former_signal_handlers_come_back(
    environment: dict[str, str], journal: Journal
) -> None:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
    before = [signal.getsignal(signum) for signum in signals]

    def watch() -> None:
        assert [signal.getsignal(signum) for signum in signals] != before
        signal.raise_signal(signal.SIGINT)

    role = Role("api", program(POLITE, "api"), environment)
    assert Supervisor([role], stop_grace_seconds=30, watch=watch).run() == 0
    assert [signal.getsignal(signum) for signum in signals] == before
    descriptor = signal.set_wakeup_fd(-1)
    assert descriptor == -1
