"""The process that reads headers: one file after the other, each handed over as a descriptor."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sqlite3
import struct
from typing import Any

from dissmodel_platform.execution.headers.geopackage import describe_geopackage
from dissmodel_platform.execution.headers.geotiff import Unreadable, describe_geotiff
from dissmodel_platform.processes import die_with_parent
from dissmodel_platform.sandbox.enter import landlock_abi, restrict

_MEMORY_BYTES = 512 * 1024**2
BROKEN = (
    ValueError, ArithmeticError, LookupError, TypeError, OSError, MemoryError, struct.error,
    sqlite3.Error,
)  # fmt: skip
"""What numbers that nobody checked can raise."""

_READERS = {b"t": describe_geotiff, b"g": describe_geopackage}


def main(channel_fd: int, parent_pid: int, directory: str) -> None:
    """Answer until the worker closes the channel; nothing can be written and little be read."""
    die_with_parent(parent_pid, 9)
    channel = socket.socket(fileno=channel_fd)
    for name, limit in (("AS", _MEMORY_BYTES), ("FSIZE", 0), ("CORE", 0), ("NOFILE", 64)):
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    if landlock_abi():
        with contextlib.suppress(OSError):  # a wall more, where the kernel puts it up
            restrict([directory, "/dev/fd", "/proc"], [], ports=[])
    while True:
        kind, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not kind:
            return
        [descriptor] = descriptors
        try:
            answer = _answer(kind, descriptor)
        finally:
            os.close(descriptor)
        channel.sendall(json.dumps(answer).encode() + b"\n")


def _answer(kind: bytes, descriptor: int) -> dict[str, Any]:
    try:
        return {"header": _READERS[kind](descriptor)}
    except Unreadable as error:
        return {"reason": str(error)}
    except BROKEN as error:
        return {"reason": f"it is broken ({type(error).__name__})"}
