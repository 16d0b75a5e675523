"""The only way out of a build: an HTTP proxy on a unix socket that knows where one may go.

It takes ``CONNECT`` (for https and ssh) and plain ``http`` requests, looks the name up itself,
checks every address and connects to one that it checked; so neither a name server that changes its
mind nor a redirect leads anywhere else. What goes through an encrypted connection stays unseen.
"""

from __future__ import annotations

import base64
import contextlib
import os
import selectors
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dissmodel_platform.storage.addresses import is_public

_MAX_HEAD_BYTES = 65_536
_CHUNK_BYTES = 65_536
_MAX_REASONS = 20
_MAX_REASON_CHARACTERS = 300
_MAX_CONNECTIONS = 128  # each takes a thread and two files of the worker
_CONNECT_SECONDS = 20.0
_STALL_SECONDS = 300.0
_LONGEST_PLACE_BYTES = 72
# For documentation (RFC 5737): nobody's on the Internet, so a closed network may use them.
_TEST_NETWORKS = tuple(map(IPv4Network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))
_DEFAULT_PORTS = {"http": 80, "https": 443, "ssh": 22}


class _RefusedError(Exception):
    """Why a request is not let through, and with which status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Destinations:
    """Where a build may connect to.

    Attributes
    ----------
    hosts : tuple of str
        Names that are allowed besides, whatever their addresses (an index on the institute's own
        network); ``*.example.org`` stands for all names below. On the ports of http, https and ssh,
        or on the one that follows (``index.example.org:8080``; ``*`` stands for all): a host may
        well serve others on other ports.
    any_public : bool
        Whether every host with public addresses is allowed, on the ports of http, https and ssh.
    """

    hosts: tuple[str, ...] = ()
    any_public: bool = True

    def names(self, host: str, port: int) -> bool:
        """Say whether a port of a host is allowed by name."""
        plain = host.lower().rstrip(".")
        return any(
            fnmatchcase(plain, name.lower()) and _has(port, ports)
            for name, ports in map(_split, self.hosts)
        )


def _split(entry: str) -> tuple[str, str]:
    """Return the name and the port of an entry, which may have none."""
    name, colon, port = entry.rpartition(":")
    if not colon or (":" in name and not name.endswith("]")):  # an IPv6 address without a port
        return entry.strip("[]"), ""
    return name.strip("[]"), port


def _has(port: int, allowed: str) -> bool:
    return allowed in ("*", str(port)) or (not allowed and port in _DEFAULT_PORTS.values())


class Proxy:
    """A proxy in a thread of its own, from `__enter__` to `__exit__`.

    Parameters
    ----------
    destinations : Destinations
        Where one may go.
    upstream : str, optional
        The institute's own proxy (``http://host:port``), through which to go; it looks names up.
    """

    def __init__(self, destinations: Destinations, upstream: str = "") -> None:
        self.destinations = destinations
        self.upstream = upstream
        self._refused: set[str] = set()
        self._directory = tempfile.TemporaryDirectory(prefix="dmp-proxy-", dir=_short_place())
        self.socket = Path(self._directory.name) / "proxy"

    def __enter__(self) -> Proxy:
        """Open the socket and answer."""
        self._server = _Server(str(self.socket), _Handler)
        self._server.proxy = self
        self.socket.chmod(0o600)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket and every connection through it."""
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        self._thread.join()
        self._directory.cleanup()

    @property
    def refused(self) -> list[str]:
        """Why requests were not let through, sorted: the first of them, each once, in short."""
        return sorted(self._refused)

    def note(self, reason: str) -> None:
        """Keep why a request was not let through."""
        if len(self._refused) < _MAX_REASONS:
            self._refused.add(reason[:_MAX_REASON_CHARACTERS])

    def connect(self, host: str, port: int) -> socket.socket:
        """Connect to a host, or say why not."""
        named = self.destinations.names(host, port)
        if not named and not (self.destinations.any_public and port in _DEFAULT_PORTS.values()):
            raise _RefusedError(403, f"{host}:{port} is not among the package sources allowed here")
        addresses = _look_up(host, port, as_name=not self.upstream)
        if not named and (_is_this_machine(host) or not all(map(_is_elsewhere, addresses))):
            raise _RefusedError(403, f"{host} is on a private network, which is not allowed here")
        if self.upstream:
            return _through(self.upstream, host, port)
        failure: OSError | None = None
        for address in addresses:
            try:
                return socket.create_connection((address, port), _CONNECT_SECONDS)
            except OSError as error:
                failure = error
        raise _RefusedError(502, f"{host}:{port} cannot be reached ({failure})")


def _short_place() -> str:
    """Return a directory for the socket: its path may have about a hundred bytes, no more."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= _LONGEST_PLACE_BYTES else "/tmp"  # noqa: S108


def _look_up(host: str, port: int, *, as_name: bool) -> list[str]:
    """Return the addresses of a host; those that are written out only, where it is no name here."""
    flags = 0 if as_name else socket.AI_NUMERICHOST
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, ValueError) as error:
        if not as_name:
            return []
        raise _RefusedError(502, f"{host} cannot be looked up ({error})") from error
    return [str(address[0]) for *_, address in found]


def _is_this_machine(host: str) -> bool:
    """Say whether a name means the machine that it is used on (RFC 6761), another proxy's too."""
    return f".{host.lower().rstrip('.')}".endswith(".localhost")


def _is_elsewhere(text: str) -> bool:
    """Say whether an address is nobody's on this machine or its network."""
    address = ip_address(text)
    return is_public(address) or any(address in network for network in _TEST_NETWORKS)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    proxy: Proxy
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *arguments: object) -> None:
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(*arguments)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, or hang up where there are too many."""
        if not self._free.acquire(blocking=False):
            self.proxy.note(f"more than {_MAX_CONNECTIONS} connections at the same time")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread: nobody else makes room again
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection and make room for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def hang_up(self) -> None:
        """End the connections that are open, so that their threads end."""
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def known(self, connection: socket.socket) -> Iterator[None]:
        """Keep a connection among those to end."""
        with self._guard:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._guard:
                self._open.discard(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over a client that hangs up in the middle."""


class _Handler(socketserver.BaseRequestHandler):
    request: socket.socket
    server: _Server

    def handle(self) -> None:
        self.request.settimeout(_STALL_SECONDS)
        with self.server.known(self.request):
            try:
                head, rest = _read_head(self.request)
                beyond, to_send, answer = self._open(head)
            except _RefusedError as error:
                self.server.proxy.note(str(error))
                self.request.sendall(_refusal(error))
                return
            with beyond, self.server.known(beyond):
                beyond.settimeout(_STALL_SECONDS)
                self.request.sendall(answer)
                beyond.sendall(to_send + rest)
                _join(self.request, beyond)

    def _open(self, head: list[str]) -> tuple[socket.socket, bytes, bytes]:
        """Return the connection, what to send there first, and what to answer first."""
        try:
            method, target, version = head[0].split(" ")
            address = urlsplit(f"//{target}" if method == "CONNECT" else target)
            host, port = address.hostname or "", address.port
        except ValueError as error:
            raise _RefusedError(400, "this is not a proxy request") from error
        if not host or (method != "CONNECT" and address.scheme != "http"):
            raise _RefusedError(400, "this is not a proxy request")
        if method == "CONNECT":
            connection = self.server.proxy.connect(host, port or _DEFAULT_PORTS["https"])
            return connection, b"", b"HTTP/1.1 200 Connection established\r\n\r\n"
        connection = self.server.proxy.connect(host, port or _DEFAULT_PORTS["http"])
        path = address._replace(scheme="", netloc="", fragment="").geturl() or "/"
        kept = [line for line in head[1:] if not line.lower().startswith(_PER_CONNECTION)]
        there = address.netloc.rpartition("@")[2]
        lines = [f"{method} {path} {version}", f"Host: {there}", *kept, "Connection: close"]
        return connection, "\r\n".join([*lines, "", ""]).encode("latin-1"), b""


# One request a connection: the next one may be for another host. And the host is the one that was
# checked, not another that the same server has (RFC 9112, section 3.2.2).
_PER_CONNECTION = (
    "connection:", "proxy-connection:", "proxy-authorization:", "keep-alive:", "host:",
)  # fmt: skip


def _read_head(connection: socket.socket) -> tuple[list[str], bytes]:
    """Return the lines of a request's head, and what came after it."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(_CHUNK_BYTES)
        received += chunk
        if not chunk or len(received) > _MAX_HEAD_BYTES:
            raise _RefusedError(400, "this is not a proxy request")
    head, _, rest = received.partition(b"\r\n\r\n")
    return head.decode("latin-1").split("\r\n"), rest


def _refusal(error: _RefusedError) -> bytes:
    body = f"{error}\n".encode()
    return (
        f"HTTP/1.1 {error.status} {error}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode("latin-1", "replace") + body


def _through(upstream: str, host: str, port: int) -> socket.socket:
    """Connect by way of another proxy."""
    address = urlsplit(upstream)
    try:
        connection = socket.create_connection(
            (address.hostname or "", address.port or _DEFAULT_PORTS["http"]), _CONNECT_SECONDS
        )
    except OSError as error:
        raise _RefusedError(
            502, f"the proxy of this network cannot be reached ({error})"
        ) from error
    there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {there} HTTP/1.1", f"Host: {there}"]
    if address.username:
        account = f"{unquote(address.username)}:{unquote(address.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(account.encode()).decode()}")
    try:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer, _ = _read_head(connection)
    except BaseException:
        connection.close()
        raise
    if " 200" not in answer[0]:
        connection.close()
        raise _RefusedError(502, f"this network's proxy refuses {host} ({answer[0]})")
    return connection


def upstream_of(environ: os._Environ[str] | dict[str, str]) -> str:
    """Return the proxy that this machine's programs are told to use, or nothing."""
    names = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY")
    return next((environ[name] for name in names if environ.get(name)), "")


def _join(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both have ended, or nothing has come for long."""
    with selectors.PollSelector() as selector:  # takes no file of its own
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while selector.get_map() and (ready := selector.select(_STALL_SECONDS)):
            for key, _ in ready:
                source, sink = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                chunk = source.recv(_CHUNK_BYTES)
                if chunk:
                    sink.sendall(chunk)
                    continue
                selector.unregister(source)
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
