"""The runner of commands: bounded, ended whole, interruptible, without the operator's secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dissmodel_platform.environments.commands import OUTPUT_TAIL_BYTES, Bounds, Commands, Finished
from dissmodel_platform.environments.scratch import remove_tree
from dissmodel_platform.environments.uv import Uv, index_hosts
from dissmodel_platform.environments.workshop import Room, Workshop
from dissmodel_platform.errors import BuildFailed, BuildInterrupted
from dissmodel_platform.sandbox.walls import Walls, inspect_walls
from tests.processes import is_running, wait_until

PATIENCE_SECONDS = 30.0
ENVIRONMENT = {"PATH": os.defpath}
SECRETS = (
    "API_KEYS",
    "DATABASE_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "STORAGE_URL",
    "PLATFORM_WEBHOOK_SECRET",
    "UV_PUBLISH_TOKEN",
    "GIT_ASKPASS",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)

# Writes its own id and a child's, then waits for the child.
PARENT = "sleep 600 & echo $$ $! > started; wait"
# The same, but the first process has ended when the command has.
LEAVES_A_CHILD = "sleep 600 & echo $$ $! > started"
# The same, and does not mind being asked to end.
STUBBORN = f"trap '' TERM INT HUP; {PARENT}"


def started(directory: Path) -> list[int]:
    """Return the ids that a command wrote, once it has."""
    file = directory / "started"
    ids = file.read_text().split() if file.exists() else []
    return [int(pid) for pid in ids]


def assert_all_have_ended(directory: Path) -> None:
    ids = started(directory)
    assert len(ids) == 2
    wait_until(lambda: not any(map(is_running, ids)), "the whole group has ended")


@pytest.mark.parametrize("script", [PARENT, STUBBORN])
def test_the_time_limit_ends_the_whole_group(tmp_path: Path, script: str) -> None:
    commands = Commands(Bounds(0.7))
    done = commands.run(["/bin/sh", "-c", script], cwd=tmp_path, environment=ENVIRONMENT)
    assert done.exit_code is None
    assert_all_have_ended(tmp_path)


def test_a_command_that_ends_takes_along_what_it_left_behind(tmp_path: Path) -> None:
    commands = Commands(Bounds(PATIENCE_SECONDS))
    done = commands.run(["/bin/sh", "-c", LEAVES_A_CHILD], cwd=tmp_path, environment=ENVIRONMENT)
    assert done.exit_code == 0
    assert_all_have_ended(tmp_path)


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", -9)])
def test_the_exit_code_is_told(tmp_path: Path, script: str, code: int) -> None:
    commands = Commands(Bounds(PATIENCE_SECONDS))
    done = commands.run(["/bin/sh", "-c", script], cwd=tmp_path, environment=ENVIRONMENT)
    assert done.exit_code == code


def test_the_last_of_the_output_is_kept_whatever_its_bytes(tmp_path: Path) -> None:
    code = "import os; os.write(1, b'x' * 100_000); os.write(2, b'\\xff the end\\n')"
    commands = Commands(Bounds(PATIENCE_SECONDS))
    done = commands.run([sys.executable, "-c", code], cwd=tmp_path, environment=ENVIRONMENT)
    assert done.output_tail.endswith("x\N{REPLACEMENT CHARACTER} the end")
    assert len(done.output_tail) <= OUTPUT_TAIL_BYTES


def test_a_command_has_no_input_to_wait_for(tmp_path: Path) -> None:
    commands = Commands(Bounds(PATIENCE_SECONDS))
    assert commands.run(["/bin/cat"], cwd=tmp_path, environment=ENVIRONMENT).exit_code == 0


def test_a_program_that_is_not_there_is_told_and_does_not_count_as_running(tmp_path: Path) -> None:
    commands = Commands(Bounds(PATIENCE_SECONDS))
    finished = commands.run(["/nowhere/uv"], cwd=tmp_path, environment=ENVIRONMENT)
    assert finished.exit_code == 126
    assert "/nowhere/uv" in finished.output_tail
    commands.interrupt()


def test_a_command_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys\n"
        "from dissmodel_platform.environments.commands import Bounds, Commands\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "Commands(Bounds(600)).run("
        "['/bin/sh', '-c', 'echo $$ > pid.part; mv pid.part pid; exec sleep 600'], "
        "cwd=place, environment={'PATH': '/usr/bin:/bin'})\n"
    )
    builder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    wait_until((tmp_path / "pid").exists, "the command runs")
    command = int((tmp_path / "pid").read_text())
    builder.kill()
    builder.wait()
    wait_until(lambda: not is_running(command), "the command has ended")


def test_an_interrupt_ends_what_runs_and_refuses_what_is_new(tmp_path: Path) -> None:
    commands = Commands(Bounds(600))
    directories = [tmp_path / "first", tmp_path / "second"]
    with ThreadPoolExecutor(2) as threads:
        running = []
        for directory in directories:
            directory.mkdir()
            command = ["/bin/sh", "-c", STUBBORN]
            running.append(
                threads.submit(commands.run, command, cwd=directory, environment=ENVIRONMENT)
            )
        wait_until(lambda: all(map(started, directories)), "both commands run")
        begin = time.monotonic()
        commands.interrupt()
        for each in running:
            assert isinstance(each.exception(PATIENCE_SECONDS), BuildInterrupted)
        assert time.monotonic() - begin < 5
    for directory in directories:
        assert_all_have_ended(directory)
    with pytest.raises(BuildInterrupted):
        commands.run(["/bin/sh", "-c", ": > new"], cwd=tmp_path, environment=ENVIRONMENT)
    assert not (tmp_path / "new").exists()
    with pytest.raises(BuildInterrupted):
        commands.check()


def test_no_command_slips_through_an_interrupt(tmp_path: Path) -> None:
    commands = Commands(Bounds(600))

    def keep_starting() -> BaseException:
        try:
            while True:
                commands.run(["/bin/true"], cwd=tmp_path, environment=ENVIRONMENT)
        except BuildInterrupted as error:
            return error

    with ThreadPoolExecutor(4) as threads:
        loops = [threads.submit(keep_starting) for _ in range(4)]
        threading.Event().wait(0.2)
        commands.interrupt()
        assert all(isinstance(loop.result(PATIENCE_SECONDS), BuildInterrupted) for loop in loops)


def test_a_command_that_prints_without_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dissmodel_platform.environments.commands.OUTPUT_LIMIT_BYTES", 1_000_000)
    done = Commands(Bounds(PATIENCE_SECONDS)).run(
        ["/bin/sh", "-c", "head -c 2000000 /dev/zero; sleep 600"],
        cwd=tmp_path,
        environment=ENVIRONMENT,
    )
    assert done.exit_code is None
    assert done.limit.startswith("printed more than")


def test_a_command_that_fills_its_scratch_directory_is_ended(tmp_path: Path) -> None:
    commands = Commands(Bounds(PATIENCE_SECONDS, disk_bytes=1_000_000))
    script = "mkdir below; head -c 2000000 /dev/urandom > below/big; sleep 600"
    done = commands.run(
        ["/bin/sh", "-c", script], cwd=tmp_path, environment=ENVIRONMENT, scratch=tmp_path
    )
    assert done.exit_code is None
    assert done.limit.startswith("wrote more than 0.001 GB; raise PLATFORM_BUILD_DISK_BYTES")


def test_what_is_unpacked_in_the_package_cache_counts_as_well(tmp_path: Path) -> None:
    """A wheel of a few megabytes may hold terabytes."""
    scratch, cache = tmp_path / "scratch", tmp_path / "cache"
    (cache / "archive-v0" / "old").mkdir(parents=True)
    (cache / "archive-v0" / "old" / "big").write_bytes(bytes(1_500_000))
    scratch.mkdir()
    wait_until(lambda: time.time() > (cache / "archive-v0" / "old").stat().st_ctime, "it is old")
    commands = Commands(Bounds(PATIENCE_SECONDS, disk_bytes=1_000_000))

    def run(script: str) -> Finished:
        return commands.run(
            ["/bin/sh", "-c", script],
            cwd=cache,
            environment=ENVIRONMENT,
            scratch=scratch,
            cache=cache,
        )

    linked = "mkdir .tmp1; head -c 700000 /dev/urandom > .tmp1/new; ln .tmp1/new ../scratch; "
    assert run(linked + "sleep 0.8").exit_code == 0
    unpacked = "mkdir archive-v0/new; head -c 2000000 /dev/urandom > archive-v0/new/big; sleep 600"
    assert run(unpacked).limit.startswith("wrote more than")


def test_a_command_that_hides_what_it_writes_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dissmodel_platform.environments.commands._HIDDEN_SECONDS", 1.0)
    script = (
        "import os, time\n"
        "for _ in range(60): os.mkdir('d' * 100); os.chdir('d' * 100)\n"
        "time.sleep(600)\n"
    )
    commands = Commands(Bounds(PATIENCE_SECONDS, disk_bytes=10**9))
    done = commands.run(
        [sys.executable, "-c", script], cwd=tmp_path, environment=ENVIRONMENT, scratch=tmp_path
    )
    remove_tree(tmp_path / ("d" * 100))
    assert done.limit.startswith("hid what it wrote")


def test_a_file_of_holes_is_no_larger_than_others(room: Room) -> None:
    workshop = Workshop(inspect_walls(), Bounds(PATIENCE_SECONDS, disk_bytes=1_000_000))
    workshop.run(["/usr/bin/truncate", "--size", "1G", "holes"], room, {"PATH": os.defpath})
    assert (room.scratch / "holes").stat().st_size <= 1_000_000


@pytest.fixture
def uv() -> Uv:
    return Uv(Workshop(Walls(), Bounds(PATIENCE_SECONDS)))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_the_tool_sees_proxies_and_indexes_and_no_secrets(
    uv: Uv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "a-secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example.org/")
    monkeypatch.setenv("SSL_CERT_FILE", "/srv/certificates.pem")
    environment = uv.environment(tmp_path / "cache")
    assert not set(SECRETS) & set(environment)
    assert "a-secret" not in environment.values()
    assert environment["HTTPS_PROXY"] == "http://proxy.example.org:3128"
    assert environment["UV_DEFAULT_INDEX"] == "https://index.example.org/"
    assert environment["SSL_CERT_FILE"] == "/srv/certificates.pem"
    assert environment["UV_CACHE_DIR"] == str(tmp_path / "cache")


def test_git_sees_neither_the_operators_settings_nor_a_terminal(
    uv: Uv, room: Room, tmp_path: Path
) -> None:
    command = ["/usr/bin/env", "git", "config", "--list", "--show-origin"]
    shown = uv.command(command, room, cache=tmp_path / "cache").output_tail.splitlines()
    origins = {line.partition("\t")[0].rpartition("/")[2] for line in shown}
    assert origins == {"build.gitconfig"}
    assert uv.environment(tmp_path)["GIT_TERMINAL_PROMPT"] == "0"


def test_commands_have_a_home_and_a_temporary_directory_of_their_own(
    uv: Uv, room: Room, tmp_path: Path
) -> None:
    script = 'echo "$HOME $TMPDIR"; test -d "$HOME" && test -d "$TMPDIR"'
    done = uv.command(["/bin/sh", "-c", script], room, cache=tmp_path / "cache")
    assert (done.exit_code, done.output_tail) == (0, f"{tmp_path / 'home'} {tmp_path / 'tmp'}")


def test_a_command_of_the_tool_ends_with_its_code_and_its_words(
    uv: Uv, room: Room, tmp_path: Path
) -> None:
    assert uv.run(["--version"], room, cache=tmp_path).output_tail.startswith("uv ")
    refused = uv.run(["pip", "no-such-command"], room, cache=tmp_path)
    assert refused.exit_code == 2
    assert "no-such-command" in refused.output_tail


def test_a_command_of_the_tool_that_takes_too_long_says_which_setting_helps(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "uv"
    slow.write_text(f"#!/bin/sh\n{PARENT}\n")
    slow.chmod(0o755)
    monkeypatch.setattr("dissmodel_platform.environments.uv.find_uv_bin", lambda: str(slow))
    hasty = Uv(Workshop(Walls(), Bounds(0.7)))
    with pytest.raises(BuildFailed, match=r"`uv pip sync` .*0\.7 s; raise PLATFORM_BUILD_TIMEOUT"):
        hasty.run(["pip", "sync"], room, cache=tmp_path)
    assert_all_have_ended(tmp_path)


def test_an_interrupt_reaches_the_tool(uv: Uv, room: Room, tmp_path: Path) -> None:
    uv.interrupt()
    with pytest.raises(BuildInterrupted):
        uv.run(["--version"], room, cache=tmp_path)


def test_hosts_of_the_operators_indexes() -> None:
    environ = {
        "UV_DEFAULT_INDEX": "https://user:key@packages.example.org/",
        "UV_INDEX": "lab=http://10.0.0.7:8080/ https://other.example.org/",
        "UV_FIND_LINKS": "/srv/wheels",
    }
    assert set(index_hosts(environ)) == {
        "packages.example.org",
        "10.0.0.7:8080",
        "other.example.org",
    }
    assert index_hosts({}) == ()
