"""``up``: one command that starts everything, keeps it running, and ends all of it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.acceptance.support import GRID, PROGRAM, Up, echo, poll, processes_below, upload
from tests.processes import is_running, wait_until


def up_once(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an ``up`` that is expected to end by itself."""
    return subprocess.run(
        [*PROGRAM, "up", *arguments],
        env={**os.environ, "PLATFORM_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("dissmodel-platform: ")
    for word in words:
        assert word in said, said


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_it_tells_the_address_and_the_key_file_and_ends_on_sigterm_with_everything(
    fresh_up: Callable[..., Up],
) -> None:
    up = fresh_up().start().wait_until_ready()
    assert f"DisSModel Platform: {up.url}\n" in up.said()
    key_file = up.home / "api-key"
    assert f"API key: kept in {key_file}\n" in up.said()
    wait_until(lambda: "\nReady.\n" in up.said(), "it says that it is ready")
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = up.key
    assert len(key) >= 40
    assert up.stop(signal.SIGTERM) == 0
    assert up.said().endswith("Stopped.\n")
    up.start().wait_until_ready()
    assert up.key == key
    assert up.process is not None
    os.killpg(up.process.pid, signal.SIGINT)  # as a terminal's Ctrl-C
    assert up.process.wait(60) == 0
    assert processes_below(up.home) == {}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_is_interrupted_leaves_nothing_and_the_next_one_works(
    fresh_up: Callable[..., Up], signum: int
) -> None:
    up = fresh_up().start()
    wait_until((up.home / "pg").exists, "PostgreSQL is being made")
    # initdb's own children notice a moment later that it has been killed
    assert up.stop(signum, patience_seconds=10) == 0
    assert "Traceback" not in up.said()
    assert up.start().wait_until_ready().stop() == 0


def test_keys_of_the_operator_count_instead_of_a_generated_one(
    fresh_up: Callable[..., Up],
) -> None:
    up = fresh_up(API_KEYS="first, second").start().wait_until_ready()
    assert not (up.home / "api-key").exists()
    for key, status in (("first", 200), ("second", 200), ("third", 401), ("first, second", 401)):
        answer = httpx.get(f"{up.url}/jobs", headers={"X-API-Key": key}, trust_env=False)
        assert answer.status_code == status, key
    assert "first" not in up.said()
    assert up.stop() == 0


def test_each_role_is_a_process_that_says_so_and_comes_back_when_it_is_killed(
    fresh_up: Callable[..., Up],
) -> None:
    up = fresh_up().start().wait_until_ready()
    before = up.roles()
    assert before.keys() == {"api", "worker", "registry sync"}
    with up.client() as http:
        job_id = echo(http, pause=3)["job_id"]
        wait_until(lambda: http.get(f"/job/{job_id}").json()["status"] == "running", "it runs")
    model = _pid_of_the_run(up)
    for pid in before.values():
        kill(pid)
    after = wait_until(
        lambda: (
            (roles := up.roles()).keys() == before.keys()
            and not set(roles.values()) & set(before.values())
            and roles
        ),
        "every role has been started again",
    )
    assert after != before
    assert not is_running(model), "a run dies with its worker"
    up.wait_until_ready()
    with up.client() as http:
        assert http.post("/admin/sync").status_code == 200
        job = poll(http, job_id)
        assert job["status"] == "completed", job["logs"]
        record = http.get(f"/experiments/{job_id}").json()
    assert record["attempt"] == 2
    assert any("will be run again" in line for line in record["logs"])
    assert up.stop() == 0


def _pid_of_the_run(up: Up) -> int:
    """Find the process that works in a run's own directory."""
    runs = up.home / "runs"

    def working() -> int | None:
        for pid in processes_below(up.home):
            try:
                if Path(f"/proc/{pid}/cwd").readlink().is_relative_to(runs):
                    return pid
            except OSError:
                continue
        return None

    return int(wait_until(working, "the run has its process"))


def test_everything_comes_back_with_its_data_after_kill_9_of_everything(
    fresh_up: Callable[..., Up],
) -> None:
    up = fresh_up().start().wait_until_ready()
    with up.client() as http:
        stored = upload(http, GRID)
        finished = poll(http, echo(http, message="before")["job_id"])
        assert finished["status"] == "completed", finished["logs"]
        models = http.get("/models").json()["models"]
        interrupted = echo(http, message="survives", pause=2)["job_id"]
        wait_until(lambda: http.get(f"/job/{interrupted}").json()["status"] == "running", "it runs")
    up.kill()
    up.start().wait_until_ready()
    with up.client() as http:
        assert http.get(f"/job/{finished['job_id']}").json() == finished
        assert [m["name"] for m in http.get("/models").json()["models"]] == [
            m["name"] for m in models
        ]
        link = http.get("/download", params={"uri": stored["uri"]}).json()["url"]
        assert httpx.get(link, trust_env=False).content == GRID.read_bytes()
        job = poll(http, interrupted)
        assert job["status"] == "completed", job["logs"]
        link = http.get("/download", params={"uri": job["output_path"]}).json()["url"]
        assert httpx.get(link, trust_env=False).text == "survives"
    assert up.stop() == 0


def test_nothing_outlives_a_supervisor_that_is_killed(fresh_up: Callable[..., Up]) -> None:
    up = fresh_up(PLATFORM_CANCEL_GRACE_SECONDS="0").start().wait_until_ready()
    assert up.process is not None
    kill(up.process.pid)
    up.process.wait(60)
    wait_until(lambda: processes_below(up.home) == {}, "the others have ended too")


def test_it_ends_with_a_sentence_when_postgresql_dies(fresh_up: Callable[..., Up]) -> None:
    up = fresh_up(PLATFORM_CANCEL_GRACE_SECONDS="0").start().wait_until_ready()
    (postgres,) = [
        pid for pid, command in processes_below(up.home).items() if f"-D {up.home}" in command
    ]
    kill(postgres)
    assert up.process is not None
    assert up.process.wait(60) == 6
    wait_until(lambda: processes_below(up.home) == {}, "the others have ended too")
    said = up.said()
    assert "dissmodel-platform: PostgreSQL ended unexpectedly (ended by SIGKILL)" in said


def test_a_second_one_on_the_same_home_is_refused(platform: Up, http: httpx.Client) -> None:
    done = up_once(platform.home, "--port", str(platform.port))
    assert platform.process is not None
    assert_refused(done, 6, "already in use", str(platform.process.pid))
    assert http.get("/jobs").status_code == 200


def test_a_port_that_is_taken_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = up_once(tmp_path / "home", "--port", port)
    assert_refused(done, 2, f"Port {port} of 127.0.0.1 is in use", "--port")
    assert processes_below(tmp_path / "home") == {}


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    done = up_once(tmp_path / "home", "--host", "192.0.2.1", PLATFORM_SANDBOX="off",
                   CONFIGS_REPO="https://git.example/configs.git")  # fmt: skip
    assert_refused(done, 2, "192.0.2.1", "--host")
    assert processes_below(tmp_path / "home") == {}


def test_listening_beyond_this_machine_needs_a_wall_or_the_operators_word(tmp_path: Path) -> None:
    """The start goes on to the next thing that is amiss."""
    for policy in ("auto", "require", "off"):
        accepted = up_once(tmp_path / "home", "--host", "0.0.0.0", PLATFORM_SANDBOX=policy)
        assert_refused(accepted, 2, "CONFIGS_REPO")


def test_who_insists_on_walls_is_told_which_one_is_missing(tmp_path: Path) -> None:
    insisting = up_once(tmp_path / "home", PLATFORM_SANDBOX="require", PATH=str(tmp_path))
    assert_refused(insisting, 2, "PLATFORM_SANDBOX=require", "apt-get install bubblewrap")
    assert not (tmp_path / "home").exists()


def test_an_unknown_setting_is_refused_by_name(tmp_path: Path) -> None:
    done = up_once(tmp_path / "home", PLATFORM_WORKER_SLOT="2")
    assert_refused(done, 2, "PLATFORM_WORKER_SLOT")
    done = up_once(tmp_path / "home", CONFIGS_SYNC_INTERVAL="often")
    assert_refused(done, 2, "CONFIGS_SYNC_INTERVAL")
    assert not (tmp_path / "home").exists()


def test_a_registry_that_is_refused_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = up_once(tmp_path / "home", CONFIGS_REPO="file:///srv/configs.git")
    assert_refused(done, 2, "CONFIGS_REPO", "PLATFORM_ALLOW_LOCAL_REGISTRY")
    assert processes_below(tmp_path / "home") == {}
