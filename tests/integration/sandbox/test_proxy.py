"""The way out of a build leads where it may lead, and nowhere else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dissmodel_platform.sandbox import proxy as module
from dissmodel_platform.sandbox.proxy import Destinations, Proxy, upstream_of
from tests.processes import wait_until

LOCAL = Destinations(hosts=("127.0.0.1:*",), any_public=False)


class Host:
    """A server on the loopback that keeps what it gets and answers each connection the same."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.got: list[bytes] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                self.got.append(connection.recv(65_536))
                connection.sendall(self.answer)

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.thread.join()


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def start(answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") -> Host:
        hosts.append(Host(answer))
        return hosts[-1]

    yield start
    for each in hosts:
        each.close()


def ask(proxy: Proxy, request: bytes, *, then: bytes = b"") -> bytes:
    """Send one request and return all that comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(proxy.socket))
        connection.sendall(request)
        received = b""
        if then:
            received = connection.recv(65_536)
            connection.sendall(then)
        while chunk := connection.recv(65_536):
            received += chunk
        return received


def test_a_tunnel_carries_bytes_both_ways(host) -> None:
    server = host(b"world")
    with Proxy(LOCAL) as proxy:
        request = f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n\r\n".encode()
        assert ask(proxy, request, then=b"hello") == (
            b"HTTP/1.1 200 Connection established\r\n\r\nworld"
        )
    assert server.got == [b"hello"]
    assert proxy.refused == []


def test_a_plain_request_goes_on_as_the_host_expects_it(host) -> None:
    server = host()
    with Proxy(LOCAL) as proxy:
        answer = ask(
            proxy,
            f"GET http://127.0.0.1:{server.port}/page/x?y=1 HTTP/1.1\r\nHost: other.example\r\n"
            "Connection: keep-alive\r\nProxy-Authorization: Basic secret\r\n\r\n".encode(),
        )
    assert answer.endswith(b"hi")
    there = f"Host: 127.0.0.1:{server.port}".encode()
    assert server.got == [
        b"GET /page/x?y=1 HTTP/1.1\r\n" + there + b"\r\nConnection: close\r\n\r\n"
    ]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("127.0.0.1:443", "private network"),
        ("localhost:443", "private network"),
        ("[::1]:443", "private network"),
        ("169.254.169.254:80", "private network"),
        ("10.0.0.1:22", "private network"),
        ("[::ffff:127.0.0.1]:443", "private network"),
        ("2130706433:443", "private network"),
        ("93.184.215.14:5432", "not among the package sources"),
        ("93.184.215.14:25", "not among the package sources"),
    ],
)
def test_what_is_not_public_is_refused(target: str, why: str) -> None:
    with Proxy(Destinations()) as proxy:
        answer = ask(proxy, f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert why.encode() in answer
    assert len(proxy.refused) == 1


def test_a_name_that_leads_to_this_machine_is_refused(monkeypatch) -> None:
    """A name server can answer anything; one private address among public ones is enough."""
    answers = [(2, 1, 6, "", ("93.184.215.14", 443)), (2, 1, 6, "", ("127.0.0.1", 443))]
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: answers)
    with Proxy(Destinations()) as proxy:
        answer = ask(proxy, b"CONNECT packages.example:443 HTTP/1.1\r\n\r\n")
    assert b"packages.example is on a private network" in answer


def test_only_the_listed_hosts_where_there_is_a_list() -> None:
    destinations = Destinations(hosts=("index.example", "*.forge.example"), any_public=False)
    assert destinations.names("INDEX.example.", 443)
    assert destinations.names("git.forge.example", 22)
    assert not destinations.names("forge.example.evil.example", 443)
    assert not destinations.names("index.example.evil.example", 443)
    with Proxy(destinations) as proxy:
        answer = ask(proxy, b"CONNECT 93.184.215.14:443 HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "request_",
    [b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET ftp://127.0.0.1/ HTTP/1.1\r\n\r\n",
     b"CONNECT [::1 HTTP/1.1\r\n\r\n", b"CONNECT 127.0.0.1:99999 HTTP/1.1\r\n\r\n",
     b"\x00\xff" * 40 + b"\r\n\r\n", b"x" * 70_000],
)  # fmt: skip
def test_what_is_no_request_is_refused(request_: bytes) -> None:
    with Proxy(LOCAL) as proxy:
        assert ask(proxy, request_).startswith(b"HTTP/1.1 400 ")


def test_a_host_that_is_down_is_told_apart_from_one_that_is_not_allowed() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    with Proxy(LOCAL) as proxy:
        answer = ask(proxy, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"cannot be reached" in answer


def test_the_network_s_own_proxy_is_used_where_there_is_one(host) -> None:
    upstream = host(b"HTTP/1.1 200 OK\r\n\r\n")
    address = f"http://me:p%40ss@127.0.0.1:{upstream.port}"
    assert upstream_of({"HTTPS_PROXY": address}) == address
    assert upstream_of({}) == ""
    with Proxy(Destinations(hosts=("index.example",)), address) as proxy:
        answer = ask(proxy, b"CONNECT index.example:443 HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert upstream.got[0].startswith(b"CONNECT index.example:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==" in upstream.got[0]


def test_closing_it_ends_what_is_open(host) -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with Proxy(LOCAL) as proxy:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(proxy.socket))
            connection.sendall(
                f"CONNECT 127.0.0.1:{silent.getsockname()[1]} HTTP/1.1\r\n\r\n".encode()
            )
            assert b"200" in connection.recv(1000)
        assert connection.recv(1000) == b""
        connection.close()
        wait_until(lambda: threading.active_count() == before, "its threads have ended")
    assert not proxy.socket.parent.exists()


def test_its_socket_has_a_short_path_wherever_temporary_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with Proxy(Destinations()) as proxy:
        assert proxy.socket.is_socket()


@pytest.mark.parametrize(
    ("entry", "host", "port", "is_named"),
    [
        ("index.example", "index.example", 443, True),
        ("index.example", "index.example", 5432, False),
        ("index.example:8080", "index.example", 8080, True),
        ("index.example:8080", "index.example", 443, False),
        ("index.example:*", "index.example", 5432, True),
        ("::1", "::1", 443, True),
        ("::1", "::1", 5432, False),
        ("[::1]:8080", "::1", 8080, True),
    ],
)
def test_a_host_is_allowed_on_its_own_ports_only(
    entry: str, host: str, port: int, is_named: bool
) -> None:
    """An index on this machine is no reason to let a build reach the database beside it."""
    assert Destinations(hosts=(entry,)).names(host, port) is is_named


@pytest.mark.parametrize(
    "target", ["localhost:443", "a.localhost.:443", "127.1:443", "169.254.169.254:80", "[::1]:443"]
)
def test_another_proxy_is_not_asked_for_its_own_machine(host, target: str) -> None:
    upstream = host(b"HTTP/1.1 200 OK\r\n\r\n")
    with Proxy(Destinations(), f"http://127.0.0.1:{upstream.port}") as proxy:
        answer = ask(proxy, f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert upstream.got == []


def test_what_is_kept_of_refused_requests_is_bounded() -> None:
    with Proxy(Destinations(any_public=False)) as proxy:
        for number in range(40):
            name = f"{number:02}{'x' * 5000}.example"
            ask(proxy, f"CONNECT {name}:443 HTTP/1.1\r\n\r\n".encode())
        assert 0 < len(proxy.refused) <= 20
        assert max(map(len, proxy.refused)) <= 300


def test_connections_are_bounded_and_make_room_for_others(monkeypatch) -> None:
    monkeypatch.setattr(module, "_MAX_CONNECTIONS", 3)
    with Proxy(Destinations(any_public=False)) as proxy:
        held = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for connection in held:
            connection.connect(str(proxy.socket))
        with socket.socket(socket.AF_UNIX) as further:
            further.settimeout(20)
            further.connect(str(proxy.socket))
            assert further.recv(10) == b""
        assert any("connections" in reason for reason in proxy.refused)
        for connection in held:
            connection.close()

        def is_answered() -> bool:
            try:
                return ask(proxy, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400")
            except OSError:
                return False

        wait_until(is_answered, "there is room again")
