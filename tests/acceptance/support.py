"""What acceptance tests share: real commands, real git repositories, and patience."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from tests.processes import wait_until

PROGRAM = [sys.executable, "-m", "dissmodel_platform"]
GRID = Path(__file__).parents[2] / "examples" / "coastal-flood" / "data" / "grid.zip"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FINAL = ("completed", "failed", "cancelled")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes_below(directory: Path) -> dict[int, str]:
    """Find the processes that have anything to do with a directory, and their command lines."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
            traces = [command, (process / "environ").read_bytes()]
            traces += [os.fsencode((process / link).readlink()) for link in ("cwd", "exe")]
        except OSError:  # it has ended meanwhile, or is a zombie
            continue
        if any(os.fsencode(directory) in trace for trace in traces):
            found[int(process.name)] = command.decode(errors="replace").strip()
    found.pop(os.getpid(), None)
    return found


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return None


@dataclass
class Up:
    """``dissmodel-platform up`` as a child process, on a home of its own."""

    home: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.log = self.home.with_name(self.home.name + ".log")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.home / "api-key").read_text().strip()

    @property
    def registry(self) -> Path:
        """The work tree of the local registry."""
        return self.home / "local" / "dissmodel-configs"

    def start(self, *arguments: str) -> Self:
        command = [*PROGRAM, "up", "--port", str(self.port), "--workers", "1", *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PLATFORM_HOME": str(self.home), **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def wait_until_ready(self) -> Self:
        """Wait until it answers and has published a commit of the registry."""
        wait_until(self._is_ready, "/health says ready")
        return self

    def stop(self, signum: int = signal.SIGTERM, *, patience_seconds: float = 0.0) -> int:
        """Ask it to end; returns the exit code once it has, with nothing left behind."""
        assert self.process is not None
        self.process.send_signal(signum)
        code = self.process.wait(60)
        if patience_seconds:
            wait_until(lambda: not processes_below(self.home), "nothing is left", patience_seconds)
        left = processes_below(self.home)
        assert left == {}, left
        return code

    def kill(self) -> None:
        """End it and all that belongs to it the hard way, whatever state they are in."""
        while pids := processes_below(self.home):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if self.process is not None:
                self.process.wait(60)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"X-API-Key": self.key},
            timeout=60,
            trust_env=False,
            **options,
        )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def roles(self) -> dict[str, int]:
        """Return the process id of each role, by what its command line says."""
        assert self.process is not None
        children = {
            pid: command
            for pid, command in processes_below(self.home).items()
            if parent_of(pid) == self.process.pid and "dissmodel_platform" in command
        }
        return {
            name: pid
            for name in ("api", "worker", "registry sync")
            for pid, command in children.items()
            if f"dissmodel_platform {name}" in command
        }

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        try:
            answer = httpx.get(f"{self.url}/health", trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and answer.json()["ready"]


@contextmanager
def running(up: Up) -> Iterator[Up]:
    """Keep a platform for the length of a block; nothing is left of it afterwards."""
    try:
        yield up
    finally:
        up.kill()


def environment_of(http: httpx.Client, model: str) -> dict[str, Any]:
    """Wait until a model's environment is ready and return it."""

    def ready() -> dict[str, Any] | None:
        environment = http.get(f"/models/{model}").json()["environment"]
        assert environment["state"] != "failed", environment
        return environment if environment["state"] == "ready" else None

    return wait_until(ready, f"the environment of {model} is ready", 300)


def upload(http: httpx.Client, path: Path, label: str = "tests") -> dict[str, Any]:
    with path.open("rb") as file:
        answer = http.post("/data/upload", files={"file": (path.name, file)}, data={"label": label})
    assert answer.status_code == 200, answer.text
    return answer.json()


def poll(http: httpx.Client, job_id: str, seconds: float = 120.0) -> dict[str, Any]:
    """Do as every old client does: ask for the job until it has ended."""

    def ended() -> dict[str, Any] | None:
        answer = http.get(f"/job/{job_id}")
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.json()["status"] in FINAL else None

    return wait_until(ended, f"{job_id} has ended", seconds)


def submit_inline(http: httpx.Client, spec: str, **request: Any) -> dict[str, Any]:
    answer = http.post(
        "/submit_job_inline", json={"model_spec_toml": spec, "input_dataset": "", **request}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def echo(http: httpx.Client, **parameters: Any) -> dict[str, Any]:
    """Submit a run of the executor that waits, then writes a message."""
    return submit_inline(http, '[model]\nclass = "echo"\n', parameters=parameters)


def on_terminal(
    variables: dict[str, str],
    *arguments: str,
    cwd: Path,
    until: Callable[[str], bool] | None = None,
) -> tuple[int, str]:
    """Run a command on a terminal; Ctrl-C is typed as soon as ``until`` is true of the screen.

    Returns
    -------
    tuple of int and str
        Exit code, and everything that was written, escape sequences included.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        env={**variables, "TERM": "xterm-256color", "COLUMNS": "100"},
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    written, deadline = b"", time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                if process.poll() is not None:
                    break
                continue
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the last writer has closed its side
                break
            if not piece:
                break
            written += piece
            if until is not None and until(written.decode(errors="replace")):
                os.killpg(process.pid, signal.SIGINT)
                until = None
        return process.wait(30), written.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def git(repository: Path, *arguments: str) -> str:
    identity = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{role}_NAME": "Ana", f"GIT_{role}_EMAIL": "ana@example.org"}
    done = subprocess.run(
        ["git", *arguments],
        cwd=repository,
        env={**os.environ, **identity},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(repository: Path, files: Mapping[str, str | None], tag: str | None = None) -> str:
    """Write files (``None``: remove), commit everything, and return the commit's id."""
    repository.mkdir(parents=True, exist_ok=True)
    if not (repository / ".git").exists():
        git(repository, "init", "--quiet", "--initial-branch=main")
    for name, content in files.items():
        path = repository / name
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=Change")
    if tag is not None:
        git(repository, "tag", tag)
    return git(repository, "rev-parse", "HEAD")
