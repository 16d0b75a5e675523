"""The command line as a person meets it: on a terminal, in a pipe, and when things go wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from tests.acceptance.support import ESCAPES, GRID, PROGRAM, Up, echo, free_port, on_terminal, poll
from tests.processes import wait_until

Command = Callable[..., "subprocess.CompletedProcess[str]"]
ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture
def variables(platform: Up) -> dict[str, str]:
    """Say where the platform is, and where it keeps its key."""
    return {
        **os.environ,
        "DISSMODEL_PLATFORM_URL": platform.url,
        "PLATFORM_HOME": str(platform.home),
        "COLUMNS": "80",
    }


@pytest.fixture
def command(variables: dict[str, str], tmp_path: Path) -> Command:
    """Run a command whose output goes into a pipe."""

    def run(*arguments: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*PROGRAM, *arguments],
            env={**variables, **more},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def only_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line on standard error."""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("dissmodel-platform: ")
    return line


# --- in a pipe


def test_models_are_plain_lines_in_a_pipe(command: Command) -> None:
    lines = [line.split("\t") for line in command("models").stdout.splitlines()]
    by_name = {line[0]: line[1:] for line in lines}
    assert by_name["flood_vector"][0].endswith("cell by connected cell.")
    assert by_name["flood_vector"][1].startswith("git+file://")
    assert by_name["flood_vector"][2] == "ready"
    assert by_name["game_of_life"][1] == "built-in"


def test_models_are_json_when_asked_for(command: Command) -> None:
    names = [model["name"] for model in json.loads(command("models", "--json").stdout)]
    assert "flood_vector" in names
    shown = json.loads(command("models", "flood_vector").stdout)
    assert shown["spec"]["model"]["class"] == "flood_vector"


def test_submit_uploads_runs_follows_and_downloads(
    command: Command, http: httpx.Client, tmp_path: Path
) -> None:
    arguments = ("submit", "flood_vector", str(GRID), "end_time=2", "--wait", "--output", "results")
    done = command(*arguments)
    assert "\x1b" not in done.stdout + done.stderr
    assert "flood_vector: completed" in done.stderr.splitlines()[-1]
    found = ID.search(done.stdout)
    assert found is not None
    record = http.get(f"/experiments/{found[0]}").json()
    assert record["parameters"]["end_time"] == 2
    (output,) = record["outputs"]
    path = tmp_path / "results" / output["name"]
    assert path.stat().st_size == output["size_bytes"]
    assert f"results/{output['name']}" in done.stdout
    assert re.search(r"status: +completed", done.stdout)


def test_what_submit_prints_as_json_is_json_alone(
    command: Command, completed: dict[str, Any]
) -> None:
    uri = "s3://dissmodel-inputs/inputs/tests/grid.zip"
    job = json.loads(command("submit", "flood_vector", uri, "--wait", "--json").stdout)
    assert job["status"] == "completed"
    assert job["input_sha256"] == completed["input_sha256"]


def test_a_run_can_be_looked_at_listed_and_reproduced(
    command: Command, completed: dict[str, Any]
) -> None:
    job_id = completed["job_id"]
    assert re.search(r"status: +completed", command("status", job_id).stdout)
    assert json.loads(command("status", job_id, "--json").stdout) == completed
    assert command("logs", job_id).stdout.splitlines() == completed["logs"]
    listed = [line.split("\t") for line in command("jobs", "--limit", "1000").stdout.splitlines()]
    assert [job_id, "flood_vector", "completed"] in [line[:3] for line in listed]
    page = json.loads(command("jobs", "--json", "--status", "completed", "--limit", "2").stdout)
    assert {job["status"] for job in page["experiments"]} == {"completed"}
    reproduced = command("reproduce", job_id)
    assert "verdict: identical" in reproduced.stderr
    verdict = json.loads(reproduced.stdout)
    assert verdict["verdict"] == "identical"
    assert verdict["of"] == job_id


def test_a_run_can_be_cancelled(command: Command, http: httpx.Client) -> None:
    job_id = echo(http, pause=600)["job_id"]
    assert job_id in command("cancel", job_id).stdout
    assert poll(http, job_id)["status"] == "cancelled"
    assert "already cancelled" in only_sentence(command("cancel", job_id, code=2))


def test_files_go_up_and_come_down_unchanged(
    command: Command, completed: dict[str, Any], tmp_path: Path
) -> None:
    source = tmp_path / "given" / "my grid.zip"
    source.parent.mkdir()
    source.write_bytes(GRID.read_bytes())
    uri = command("upload", str(source), "--label", "cli").stdout.strip()
    assert uri == "s3://dissmodel-inputs/inputs/cli/my grid.zip"
    told = command("download", uri, "taken").stdout.strip()
    assert (tmp_path / told).read_bytes() == GRID.read_bytes()
    stored = json.loads(command("upload", str(source), "--json").stdout)
    assert stored["checksum"] == completed["input_sha256"]
    (line,) = command("download", completed["job_id"], "taken").stdout.splitlines()
    assert (tmp_path / line).is_file()
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == sorted(
        ["my grid.zip", Path(line).name]
    )


# --- on a terminal


def test_a_run_is_followed_with_a_bar_on_a_terminal(
    variables: dict[str, str], completed: dict[str, Any], tmp_path: Path
) -> None:
    code, written = on_terminal(
        variables, "submit", "flood_vector", str(GRID), "--wait", cwd=tmp_path
    )
    assert code == 0, written
    assert "\x1b[" in written
    assert "━" in written
    screen = ESCAPES.sub("", written)
    assert "flood_vector: completed" in screen
    assert "100%" in screen


def test_a_listing_is_a_table_with_headings_on_a_terminal(
    variables: dict[str, str], completed: dict[str, Any], tmp_path: Path
) -> None:
    code, written = on_terminal(variables, "jobs", cwd=tmp_path)
    assert code == 0
    screen = ESCAPES.sub("", written)
    assert re.match(r"\s*experiment +model +status +created", screen)
    assert "\t" not in screen


def test_ctrl_c_while_waiting_leaves_the_run_going_and_says_how_to_follow_it(
    variables: dict[str, str], http: httpx.Client, tmp_path: Path
) -> None:
    blocking = echo(http, pause=600)["job_id"]  # the one worker is busy, so the run has to wait
    code, written = on_terminal(
        variables,
        *("submit", "game_of_life", "--wait"),
        cwd=tmp_path,
        until=lambda screen: "game_of_life: pending" in ESCAPES.sub("", screen),
    )
    assert code == 130, written
    screen = ESCAPES.sub("", written)
    assert "The run goes on." in screen
    assert "Traceback" not in screen
    found = re.search(r"dissmodel-platform\s+status\s+([0-9a-f]{32})", screen)
    assert found is not None, screen
    assert http.get(f"/job/{found[1]}").json()["status"] == "pending"
    for job_id in (found[1], blocking):
        assert http.delete(f"/job/{job_id}").status_code == 200


# --- what goes wrong


def test_a_server_that_is_not_there_is_told_in_a_sentence(command: Command) -> None:
    for url in (f"http://127.0.0.1:{free_port()}", "http://no.such.host.invalid"):
        done = command("models", "--url", url, code=6)
        assert url in only_sentence(done)
        assert "--url" in only_sentence(done)


@pytest.mark.parametrize(
    ("url", "code"), [("127.0.0.1:8000", 6), ("ftp://127.0.0.1", 6), ("http://:x", 1)]
)
def test_an_address_that_is_none_is_told_in_a_sentence(
    command: Command, url: str, code: int
) -> None:
    assert url in only_sentence(command("models", "--url", url, code=code))


def test_another_program_at_the_address_is_told_in_a_sentence(command: Command) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            done = command("models", "--url", f"http://127.0.0.1:{server.server_port}", code=6)
        finally:
            server.shutdown()
            thread.join()
    assert "is no platform" in only_sentence(done)


def test_a_wrong_or_missing_key_is_told_in_a_sentence(command: Command, tmp_path: Path) -> None:
    wrong = only_sentence(command("models", "--key", "wrong", code=5))
    assert "not known" in wrong
    assert "DISSMODEL_PLATFORM_KEY" in wrong
    missing = only_sentence(command("jobs", code=5, PLATFORM_HOME=str(tmp_path)))
    assert "--key" in missing
    only_sentence(command("jobs", "--key", "schlüssel", code=1))


def test_a_key_of_this_machine_is_not_sent_to_others(
    platform: Up, variables: dict[str, str]
) -> None:
    show = "from dissmodel_platform.cli.connection import connect; import sys; "
    show += "print(connect(sys.argv[1], None)._http.headers.get('X-API-Key'))"

    def key_for(url: str) -> str:
        done = subprocess.run(
            [PROGRAM[0], "-c", show, url],
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert key_for("http://localhost:8000") == platform.key
    assert key_for("https://platform.example") == "None"


def test_a_proxy_for_others_is_not_asked_for_this_machine(command: Command) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert command("jobs", HTTP_PROXY=nobody, http_proxy=nobody, ALL_PROXY=nobody).stdout


def test_a_file_that_is_not_there_is_told_in_a_sentence(command: Command) -> None:
    assert "absent.zip" in only_sentence(command("upload", "absent.zip", code=1))
    done = command("submit", "flood_vector", "absent.zip", code=1)
    assert "absent.zip" in only_sentence(done)
    uri = "s3://dissmodel-inputs/inputs/tests/absent.zip"
    assert uri in only_sentence(command("download", uri, code=4))


def test_a_place_that_cannot_be_written_is_told_in_a_sentence(
    command: Command, completed: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    done = command("download", completed["job_id"], "taken", code=1)
    assert "cannot be written" in only_sentence(done)
    assert (tmp_path / "taken").read_text() == "a file"


def test_what_is_not_known_is_told_in_a_sentence(command: Command) -> None:
    assert "flood_vector" in only_sentence(command("submit", "flod_vector", code=4))
    assert "flood_vector" in only_sentence(command("models", "flod_vector", code=4))
    for name in ("status", "logs", "cancel", "reproduce", "download"):
        assert "no experiment" in only_sentence(command(name, "0" * 32, code=4))
    only_sentence(command("status", "a/b?c", code=4))


def test_a_parameter_that_does_not_fit_is_told_in_a_sentence(command: Command) -> None:
    done = command("submit", "flood_vector", str(GRID), "end_time=ten", code=2)
    assert "parameters.end_time" in only_sentence(done)
    assert "parameters.end_time" in only_sentence(
        command("submit", "flood_vector", "end_time=NaN", code=2)
    )
    assert "Two inputs" in only_sentence(
        command("submit", "flood_vector", "a.zip", "b.zip", code=1)
    )
    command("submit", code=2)
    command("jobs", "--status", "done", code=2)


def test_a_run_that_fails_ends_with_its_reason_and_code_3(
    command: Command, http: httpx.Client, tmp_path: Path
) -> None:
    unreadable = tmp_path / "unreadable.zip"
    unreadable.write_bytes(b"no zip at all")
    done = command("submit", "flood_vector", str(unreadable), "--wait", code=3)
    assert done.stderr.splitlines()[-2] == "flood_vector: failed"
    assert "cannot be read as vector data" in done.stderr.splitlines()[-1]


def test_a_run_that_is_cancelled_while_waited_for_says_so(
    variables: dict[str, str], http: httpx.Client, tmp_path: Path
) -> None:
    blocking = echo(http, pause=600)["job_id"]
    waiting = subprocess.Popen(
        [*PROGRAM, "submit", "game_of_life", "--wait"],
        env=variables,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def newest() -> str | None:
        (job,) = http.get("/jobs?limit=1").json()["experiments"]
        return job["job_id"] if job["model_name"] == "game_of_life" else None

    job_id = wait_until(newest, "it is submitted")
    http.delete(f"/job/{job_id}")
    _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 3
    assert said.splitlines()[-1] == f"dissmodel-platform: Experiment {job_id} was cancelled."
    http.delete(f"/job/{blocking}")


# --- itself


def test_help_and_version_need_no_platform(command: Command) -> None:
    text = command("--help").stdout
    for name in ("up", "demo", "submit", "models", "registry"):
        assert name in text
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", command("--version").stdout)
    for name in ("up", "submit", "worker", "download"):
        assert "Example:" in command(name, "--help").stdout


def test_the_registry_can_be_looked_at_on_the_server(command: Command) -> None:
    state = json.loads(command("registry", "status", "--json").stdout)
    assert state["models"] >= 2
    assert command("registry", "status").stdout.startswith(f"commit: {state['commit']}\n")


def test_a_role_without_a_database_says_so(command: Command, tmp_path: Path) -> None:
    for role in (("worker",), ("api",), ("registry", "sync"), ("registry", "status")):
        done = command(*role, code=6, PLATFORM_HOME=str(tmp_path / "empty"))
        assert "dissmodel-platform up" in only_sentence(done)
