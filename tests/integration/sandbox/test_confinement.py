"""What a hostile program manages behind the walls of this machine, each alone and both together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.sandbox.confinement import Confinement
from dissmodel_platform.sandbox.enter import landlock_abi
from dissmodel_platform.sandbox.proxy import Destinations, Proxy
from dissmodel_platform.sandbox.walls import Walls, inspect_walls
from tests.processes import is_running, wait_until

PYTHON = str(Path(sys.executable).resolve())

# Each attempt is an expression; what it is worth, or the error that it meets, is reported.
PROGRAM = """
import json, os, resource, signal, socket, stat, subprocess, sys, urllib.request
def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(5); s.connect(address); return True
def write(path):
    with open(path, "w") as f: f.write("x")
    return True
report = {}
for name, attempt in json.loads(sys.argv[1]).items():
    try: report[name] = eval(attempt)
    except BaseException as error: report[name] = type(error).__name__
print(json.dumps(report))
"""

both = pytest.param(("namespaces", "landlock"), id="both")
namespaces = pytest.param(("namespaces",), id="namespaces")
landlock = pytest.param(("landlock",), id="landlock")


with_namespaces = pytest.mark.parametrize("walls", [both, namespaces], indirect=True)


@pytest.fixture(params=[both, namespaces, landlock])
def walls(request: pytest.FixtureRequest) -> Walls:
    missing = set(request.param) - set(inspect_walls().builds)
    if missing:
        pytest.skip(f"this machine does not offer {', '.join(missing)}")
    return Walls(builds=request.param)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    place = tmp_path / "room"
    place.mkdir()
    return place


Try = Callable[..., dict[str, Any]]


@pytest.fixture
def attempt(walls: Walls, room: Path) -> Try:
    def run(confinement: Confinement | None = None, **attempts: str) -> dict[str, Any]:
        confinement = confinement or Confinement(writable=(room,))
        done = subprocess.run(
            confinement.command(walls, [PYTHON, "-c", PROGRAM, json.dumps(attempts)], room),
            check=False,
            cwd=room,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    return run


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A server on this machine's loopback, as a database is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_files_outside_can_neither_be_read_nor_changed(attempt: Try, tmp_path, room) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "file").write_text("text")
    report = attempt(
        Confinement(readable=(shown,), writable=(room,)),
        read=f"open({str(secret)!r}).read()",
        listing=f"os.listdir({str(tmp_path)!r}).index('secret')",
        link=f"os.symlink({str(secret)!r}, 'link') or open('link').read()",
        hard_link=f"os.link({str(secret)!r}, 'hard')",
        change_shown=f"write({str(shown / 'file')!r})",
        empty_shown=f"os.truncate({str(shown / 'file')!r}, 0)",
        replace_shown=f"os.rename('own', {str(shown / 'file')!r})",
        system="write('/usr/written')",
        shadow="open('/etc/shadow').read()",
        parent="os.listdir('..').index('secret')",
    )
    refusals = {"FileNotFoundError", "PermissionError", "OSError", "ValueError"}
    assert set(report.values()) <= refusals, report
    used = attempt(
        Confinement(readable=(shown,), writable=(room,)),
        shown=f"open({str(shown / 'file')!r}).read()",
        own="write('own')",
        overwrite=f"write({str(secret)!r})",  # where /tmp is its own, it may: nobody sees it
        beside=f"write({str(tmp_path / 'new')!r})",
    )
    assert used["shown"] == "text"
    assert used["own"] is True
    assert secret.read_text() == "key"
    assert (shown / "file").read_text() == "text"
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "shown", "room"}


def test_this_machine_s_network_cannot_be_reached(attempt: Try, listening) -> None:
    if landlock_abi() < 4:
        pytest.skip("this kernel's Landlock does not know TCP")
    address = listening.getsockname()
    report = attempt(tcp=f"connect(socket.AF_INET, {address!r})")
    assert report["tcp"] in {"ConnectionRefusedError", "PermissionError", "OSError"}


def test_abstract_sockets_and_signals_stay_inside(attempt: Try) -> None:
    if landlock_abi() < 6:
        pytest.skip("this kernel's Landlock does not know these")
    name = f"\0dissmodel-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        report = attempt(
            abstract=f"connect(socket.AF_UNIX, {name!r})",
            signal=f"os.kill({os.getpid()}, 0)",
            environ=f"open('/proc/{os.getpid()}/environ').read()",
        )
    assert report["abstract"] in {"ConnectionRefusedError", "PermissionError"}
    assert report["signal"] in {"ProcessLookupError", "PermissionError"}
    assert report["environ"] in {"FileNotFoundError", "PermissionError"}


@with_namespaces
def test_sockets_of_this_machine_are_out_of_sight(attempt: Try, tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        report = attempt(unix=f"connect(socket.AF_UNIX, {str(tmp_path / 's')!r})")
    assert report["unix"] == "FileNotFoundError"


def test_no_variable_of_ours_comes_along(attempt: Try, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "secret")
    report = attempt(names="sorted(os.environ)")
    assert set(report["names"]) <= {"PATH", "PWD", "LC_CTYPE"}


def test_limits_hold(attempt: Try, room) -> None:
    limits = {"AS": 2 * 1024**3, "FSIZE": 1_000_000}
    report = attempt(
        Confinement(writable=(room,), limits=limits),
        memory="len(bytearray(3 * 1024**3))",
        raise_it="resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))",
        file="signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
        " and open('big', 'wb', 0).write(bytes(2_000_000))",
    )
    assert report["memory"] == "MemoryError"
    assert report["raise_it"] == "ValueError"
    assert (room / "big").stat().st_size <= 1_000_000


def test_capabilities_are_gone(attempt: Try) -> None:
    """A device that root makes would be a way to the whole disk."""
    report = attempt(
        device="os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))",
        owner="write('own') and os.chown('own', 1, 1)",
        mount="subprocess.run(['mount', '-t', 'tmpfs', 'x', '/tmp']).returncode",
    )
    assert report["device"] == "PermissionError"
    assert report["owner"] in {"PermissionError", "OSError"}
    assert report["mount"] != 0


@with_namespaces
def test_processes_of_this_machine_are_out_of_sight(attempt: Try) -> None:
    report = attempt(
        effective="[l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')]",
        processes="len([p for p in os.listdir('/proc') if p.isdigit()])",
    )
    assert int(report["effective"][0], 16) == 0
    assert report["processes"] <= 4


def test_the_proxy_is_the_only_way_out(attempt: Try, room, listening) -> None:
    address, port = listening.getsockname()

    def answer_once() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    server = threading.Thread(target=answer_once)
    server.start()
    with Proxy(Destinations(hosts=("127.0.0.1:*",), any_public=False)) as proxy:
        report = attempt(
            Confinement(writable=(room,), proxy=proxy.socket),
            allowed=f"urllib.request.urlopen('http://{address}:{port}/x').read().decode()",
            other="urllib.request.urlopen('http://localhost:9/').read().decode()",
            past_it=f"connect(socket.AF_INET, {(address, port)!r})",
        )
        server.join()
        assert report["allowed"] == "hello"
        assert report["other"] == "HTTPError"
        assert report["past_it"] in {"ConnectionRefusedError", "PermissionError"}
        assert any("localhost:9" in refused for refused in proxy.refused)


def test_nothing_is_left_when_the_command_is_ended(walls: Walls, room) -> None:
    program = (
        "import os, subprocess, time; subprocess.Popen(['/bin/sleep', '600']);"
        "open('started', 'w').close(); time.sleep(600)"
    )
    with Proxy(Destinations()) as proxy:
        confinement = Confinement(writable=(room,), proxy=proxy.socket)
        process = subprocess.Popen(
            confinement.command(walls, [PYTHON, "-c", program], room),
            cwd=room,
            start_new_session=True,
        )
        try:
            wait_until((room / "started").exists, "it has started")
            below = descendants(process.pid)
            assert len(below) >= 2
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        wait_until(lambda: not any(map(is_running, below)), "all of them have ended")


def test_what_stands_in_the_way_of_the_start_is_said(walls: Walls, room) -> None:
    done = subprocess.run(
        Confinement(writable=(room,)).command(walls, ["/nowhere/program"], room),
        check=False,
        cwd=room,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 126
    assert "cannot start /nowhere/program" in done.stderr


def descendants(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in pairs if its_parent == parent]
    return found[1:]
