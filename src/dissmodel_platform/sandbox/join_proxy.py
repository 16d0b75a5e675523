"""Join standard input and output to a host, by way of the proxy: what ssh calls a ProxyCommand.

Run by file name behind walls, as ``python -I -S join_proxy.py HOST PORT``. The standard library
only: nothing else can be seen there. Where no proxy is named it connects by itself.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from urllib.parse import urlsplit

_CONNECT_SECONDS = 30.0
_CHUNK_BYTES = 65_536
_MAX_HEAD_BYTES = 65_536


def join(host: str, port: int) -> None:
    """Carry bytes both ways until the other side ends.

    Raises
    ------
    OSError
        There is no way there; the message is the proxy's.
    """
    address = urlsplit(os.environ.get("https_proxy", ""))
    if not address.hostname or not address.port:
        connection, rest = socket.create_connection((host, port), _CONNECT_SECONDS), b""
    else:
        proxy = (address.hostname, address.port)
        connection = socket.create_connection(proxy, _CONNECT_SECONDS)
        name = f"[{host}]" if ":" in host else host
        connection.sendall(
            f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n".encode()
        )
        rest = _read_answer(connection)
    connection.settimeout(None)
    _write(1, rest)
    threading.Thread(target=_send, args=(connection,), daemon=True).start()
    while chunk := connection.recv(_CHUNK_BYTES):
        _write(1, chunk)


def _read_answer(connection: socket.socket) -> bytes:
    """Return what came after the head of the proxy's answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(_CHUNK_BYTES)
        received += chunk
        if not chunk or len(received) > _MAX_HEAD_BYTES:
            raise OSError("the proxy hung up")
    head, _, rest = received.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise OSError(status.partition(" ")[2])
    return rest


def _send(connection: socket.socket) -> None:
    while chunk := os.read(0, _CHUNK_BYTES):
        connection.sendall(chunk)
    connection.shutdown(socket.SHUT_WR)


def _write(descriptor: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(descriptor, chunk) :]


if __name__ == "__main__":
    try:
        join(sys.argv[1], int(sys.argv[2]))
    except OSError as error:
        print(f"Failed to connect to {sys.argv[1]}: {error}", file=sys.stderr)
        sys.exit(1)
