"""Packages by ``git+ssh``: the key opens the repository and is seen by nothing that is built."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.environments.workshop import SshAccess, Workshop
from dissmodel_platform.errors import PackageNotFound, PackageUnreachable
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.proxy import Destinations
from dissmodel_platform.sandbox.walls import inspect_walls
from tests.integration.environments.index import LocalIndex, executor, serving
from tests.processes import wait_until

# A build backend that puts what it could find of the key into the wheel.
BACKEND = """
import os, subprocess, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    def succeeds(*command):
        return subprocess.run(command, capture_output=True).returncode == 0
    seen = dict(
        agent=os.environ.get("SSH_AUTH_SOCK"),
        key=os.path.exists({key!r}),
        agent_socket=os.path.exists({agent!r}),
        repository=succeeds("git", "ls-remote", {other!r}),
        clone_changed=any(
            succeeds("touch", value.removeprefix("url.file://").removesuffix(".insteadOf"))
            for name, value in os.environ.items() if name.startswith("GIT_CONFIG_KEY_")
        ),
    )
    name = "tide-1.0-py3-none-any.whl"
    information = "Metadata-Version: 2.1\\nName: tide\\nVersion: 1.0\\nRequires-Dist: dissmodel\\n"
    information += {requires!r}
    with zipfile.ZipFile(os.path.join(directory, name), "w") as archive:
        archive.writestr("tide.py", {module!r} + f"\\nSEEN = {{seen!r}}\\n")
        archive.writestr("tide-1.0.dist-info/METADATA", information)
        archive.writestr(
            "tide-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        )
        archive.writestr("tide-1.0.dist-info/RECORD", "tide.py,,\\n")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tide"
version = "1.0"
dynamic = ["dependencies"]
"""
NOTHING_SEEN = {
    "agent": None, "key": False, "agent_socket": False, "repository": False, "clone_changed": False,
}  # fmt: skip


@dataclass(frozen=True)
class SshHost:
    """An ssh server on the loopback that serves git repositories to one key."""

    port: int
    repositories: Path
    key: Path
    known_hosts: Path

    def address(self, name: str) -> str:
        return f"ssh://git@127.0.0.1:{self.port}/{name}"


def _git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A modeller", "-c", "user.email=modeller@example.org")
    command = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


async def _pour(source: Any, sink: Any) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while chunk := await source.read(65536):
            sink.write(chunk)
            await sink.drain()
        sink.write_eof()


@contextmanager
def _ssh_server(host_key: Path, accepted: Path, repositories: Path) -> Iterator[int]:
    """Serve ``git-upload-pack`` in a thread with an event loop of its own."""
    loop = asyncio.new_event_loop()

    async def serve_pack(process: asyncssh.SSHServerProcess[bytes]) -> None:
        words = shlex.split(process.command or "")
        assert words[0] == "git-upload-pack"
        pack = await asyncio.create_subprocess_exec(
            words[0], str(repositories / words[1].lstrip("/")),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert pack.stdin and pack.stdout and pack.stderr
        sending = asyncio.create_task(_pour(process.stdin, pack.stdin))
        await asyncio.gather(_pour(pack.stdout, process.stdout), _pour(pack.stderr, process.stderr))
        sending.cancel()
        process.exit(await pack.wait())

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[str(host_key)], encoding=None,
            authorized_client_keys=str(accepted), process_factory=serve_pack,
        )  # fmt: skip

    server = loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.get_port()
    finally:

        async def close() -> None:
            server.close()
            await server.wait_closed()

        asyncio.run_coroutine_threadsafe(close(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def ssh_host(tmp_path: Path) -> Iterator[SshHost]:
    for name in ("host", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    repositories = tmp_path / "repositories"
    repositories.mkdir()
    with _ssh_server(tmp_path / "host", tmp_path / "key.pub", repositories) as port:
        known_hosts = tmp_path / "known hosts"
        public = (tmp_path / "host.pub").read_text()
        known_hosts.write_text(f"[127.0.0.1]:{port} {public}")
        yield SshHost(port, repositories, tmp_path / "key", known_hosts)


@pytest.fixture
def agent(tmp_path: Path, ssh_host: SshHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An agent that holds the key, as the operator's variable names it."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL, text=True
    )
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    try:
        wait_until(socket.is_socket, "the agent listens")
        subprocess.run(["ssh-add", "-q", str(ssh_host.key)], check=True)
        yield socket
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalIndex]:
    with serving(LocalIndex()) as served:
        monkeypatch.setenv("UV_DEFAULT_INDEX", served.url)
        served.add_stand_in()
        yield served


def open_store(directory: Path, access: SshAccess) -> EnvironmentStore:
    destinations = Destinations(hosts=("127.0.0.1:*",), any_public=False)
    workshop = Workshop(inspect_walls(), Bounds(120), destinations, access)
    return EnvironmentStore(directory / "packages", HARNESS, workshop)


def publish(host: SshHost, agent: Path | str = "/no/agent", requires: str = "") -> str:
    """Publish the package ``tide`` with the tag v1; returns the commit."""
    repository = host.repositories / "tide"
    repository.mkdir()
    (repository / "pyproject.toml").write_text(PROJECT)
    backend = BACKEND.format(
        key=str(host.key),
        agent=str(agent),
        other=host.address("other"),
        requires=requires,
        module=executor("tide"),
    )
    (repository / "backend.py").write_text(backend)
    _git(repository, "init", "--quiet", "--initial-branch=main")
    _git(repository, "add", "--all")
    _git(repository, "commit", "--quiet", "--message=A version")
    _git(repository, "tag", "v1")
    _git(host.repositories, "clone", "--quiet", "--bare", "tide", "other")
    return _git(repository, "rev-parse", "HEAD")


def asked(host: SshHost, ref: str = "v1") -> PackageRequest:
    package = f"tide @ git+{host.address('tide')}@{ref}"
    return request_for(package, None, allow_local=False)


def seen_by_the_build(store: EnvironmentStore, request: PackageRequest) -> object:
    environment = store.acquire(store.lock(request), request).environment
    command = [str(environment.python), "-c", "import tide; print(tide.SEEN)"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return eval(said)


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("by", ["branch", "tag", "commit"])
def test_a_key_file_opens_the_repository_for_git_alone(
    tmp_path: Path, ssh_host: SshHost, by: str
) -> None:
    store = open_store(tmp_path, SshAccess(ssh_host.key, ssh_host.known_hosts))
    commit = publish(ssh_host)
    request = asked(ssh_host, {"branch": "main", "tag": "v1", "commit": commit}[by])
    locked = store.lock(request).find("tide")
    assert locked is not None
    assert locked.commit == commit
    assert locked.source == ssh_host.address("tide")
    assert seen_by_the_build(store, request) == NOTHING_SEEN


@pytest.mark.usefixtures("index")
def test_the_operators_agent_opens_it_and_no_build_can_ask_it(
    tmp_path: Path, ssh_host: SshHost, agent: Path
) -> None:
    store = open_store(tmp_path, SshAccess(None, ssh_host.known_hosts))
    publish(ssh_host, agent)
    assert seen_by_the_build(store, asked(ssh_host)) | {"key": False} == NOTHING_SEEN


@pytest.mark.usefixtures("index")
def test_each_fault_is_told_with_what_to_do(tmp_path: Path, ssh_host: SshHost) -> None:
    publish(ssh_host, requires=f"Requires-Dist: other @ git+{ssh_host.address('other')}\n")
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    access = SshAccess(stranger, ssh_host.known_hosts)
    with pytest.raises(PackageNotFound, match=r"takes none of the worker's keys.*SSH_KEY"):
        open_store(tmp_path, access).lock(asked(ssh_host))
    nobody = tmp_path / "nobody"
    nobody.write_text("")
    with pytest.raises(PackageNotFound, match=r"host of its repository is not known.*KNOWN_HOSTS"):
        open_store(tmp_path, SshAccess(ssh_host.key, nobody)).lock(asked(ssh_host))
    access = SshAccess(ssh_host.key, ssh_host.known_hosts)
    with pytest.raises(PackageNotFound, match=r"repository is not found"):
        package = f"git+{ssh_host.address('not-there')}"
        open_store(tmp_path, access).lock(request_for(package, None, allow_local=False))
    with pytest.raises(PackageNotFound, match=r"it asks for a source over ssh that is not"):
        open_store(tmp_path, access).lock(asked(ssh_host))


@pytest.mark.usefixtures("index")
def test_a_host_that_is_not_allowed_is_not_connected_to(tmp_path: Path, ssh_host: SshHost) -> None:
    publish(ssh_host)
    access = SshAccess(ssh_host.key, ssh_host.known_hosts)
    workshop = Workshop(inspect_walls(), Bounds(120), Destinations(), access)
    store = EnvironmentStore(tmp_path / "packages", HARNESS, workshop)
    with pytest.raises(PackageUnreachable):
        store.lock(asked(ssh_host))


def test_joining_without_a_proxy_goes_there_directly(ssh_host: SshHost) -> None:
    script = Path("src/dissmodel_platform/sandbox/join_proxy.py").resolve()
    joined = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "127.0.0.1", str(ssh_host.port)],
        input=b"SSH-2.0-test\r\n", capture_output=True, timeout=20, env={}, check=True,
    )  # fmt: skip
    assert joined.stdout.startswith(b"SSH-2.0-")
