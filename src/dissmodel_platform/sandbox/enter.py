"""Entry of a walled-in command: limits, a way to the network, Landlock, then the command itself.

Run by file name as ``python -I -S enter.py ORDERS COMMAND…`` with the orders as JSON (`Orders`);
inside the namespaces where there are some, else as the only wall. It imports the standard library
only, because the interpreter that runs it sees nothing else.

Landlock (landlock(7)) needs no privilege and cannot be undone: whatever the command starts lives
under the same rules. Which rights there are depends on the kernel's ABI number; a right that the
kernel does not know is not asked for, and `missing_rights` says what that leaves open.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import stat
import sys
import threading
from collections.abc import Sequence
from typing import TypedDict

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_RULESET_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_ANY_CAPABILITY = 64

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FILES_V1 = (1 << 13) - 1  # what ABI 1 knows: up to making symbolic links
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READING = _EXECUTE | _READ_FILE | _READ_DIR
_CONNECT_AND_BIND = 3
_CONNECT = 2
_SCOPES = 3  # abstract unix sockets and signals stay inside

_ABI_TRUNCATE, _ABI_TCP, _ABI_IOCTL, _ABI_SCOPES = 3, 4, 5, 6
_HOLES = (  # of every version up to now
    "sockets that have a path can be connected to, such as a database's",
    "UDP is not restricted",
    "modes and times of files of the same user can be changed",
    "processes that leave their group go on when the build has ended",
)
_CANNOT_ENTER = 126
_LOOK_SECONDS = 0.1


class Orders(TypedDict):
    """What to set up before the command starts.

    Attributes
    ----------
    readable, writable : list of str
        Paths below which the command may read (and execute), and also write.
    landlock : bool
        Whether Landlock stands; it is refused silently by nobody: a failure ends the start.
    proxy : str or None
        Unix socket of the proxy that is the only way out; ``None``: there is none.
    own_network : bool
        Whether the network here is a namespace's own, where TCP reaches nobody else.
    limits : dict of str to int
        Names of `resource` limits without ``RLIMIT_``, such as ``AS`` in bytes.
    """

    readable: list[str]
    writable: list[str]
    landlock: bool
    proxy: str | None
    own_network: bool
    limits: dict[str, int]


def landlock_abi() -> int:
    """Return the kernel's Landlock ABI number; 0: it has none, or it is switched off."""
    if not sys.platform.startswith("linux"):
        return 0
    abi: int = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _RULESET_VERSION)
    return max(0, abi)


def missing_rights(abi: int) -> list[str]:
    """Say what Landlock of an ABI number leaves open."""
    if abi < 1:
        return ["it is not there (it came with Linux 5.13, and can be switched off)"]
    since = {
        _ABI_TRUNCATE: "files that may be read can be emptied",
        _ABI_TCP: "TCP connections are not restricted",
        _ABI_SCOPES: "signals to other processes and abstract sockets are not restricted",
    }
    return [*_HOLES, *(what for number, what in since.items() if abi < number)]


def restrict(
    readable: Sequence[str], writable: Sequence[str], *, ports: Sequence[int] | None
) -> None:
    """Put this process and all it will start under Landlock's rules.

    Parameters
    ----------
    readable, writable : sequence of str
        Paths below which to read and execute, and also to write; those not there are passed over.
    ports : sequence of int or None
        TCP ports that may be connected to; ``None``: TCP is not restricted.

    Raises
    ------
    OSError
        The kernel refuses.
    """
    abi = landlock_abi()
    files = _FILES_V1 | (_REFER if abi >= 2 else 0)
    files |= (_TRUNCATE if abi >= _ABI_TRUNCATE else 0) | (_IOCTL_DEV if abi >= _ABI_IOCTL else 0)
    network = _CONNECT_AND_BIND if abi >= _ABI_TCP and ports is not None else 0
    scopes = _SCOPES if abi >= _ABI_SCOPES else 0
    fields = 1 if abi < _ABI_TCP else 2 if abi < _ABI_SCOPES else 3
    attributes = (ctypes.c_uint64 * fields)(*(files, network, scopes)[:fields])
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(ctypes.sizeof(attributes)), 0)
    try:
        for path in readable:
            _allow_path(ruleset, path, files & _READING)
        for path in writable:
            _allow_path(ruleset, path, files)
        for port in ports or () if network else ():
            rule = (ctypes.c_uint64 * 2)(_CONNECT, port)
            _call(_ADD_RULE, ruleset, _NET_PORT, rule, 0)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        there = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(there).st_mode):
            rights &= _OF_A_FILE
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_PathBeneath(rights, there)), 0)
    finally:
        os.close(there)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc().syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, *(ctypes.c_ulong(n) for n in (value, 0, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _drop_capabilities() -> None:
    """Give up what root may do beside its files, such as making devices; there is no way back.

    Others have nothing to give up, and are not allowed to.
    """
    with contextlib.suppress(OSError):
        for capability in range(_ANY_CAPABILITY):
            _prctl(_PR_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _libc().capset(header, (ctypes.c_uint32 * 6)())


def _limit(limits: dict[str, int]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _forward(proxy: str) -> int:
    """Start a process that joins a port of this machine's loopback to the proxy; return the port.

    Programs know proxies by address only, and here no address leads out. The process looks whether
    its parent, which becomes the command, is still there: Landlock keeps the kernel's death signal
    from it, too.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    port: int = listener.getsockname()[1]
    parent = os.getpid()
    if os.fork() != 0:
        listener.close()
        return port
    listener.settimeout(_LOOK_SECONDS)
    while os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            connection.settimeout(None)
            threading.Thread(target=_join, args=(connection, proxy), daemon=True).start()
    os._exit(0)


def _join(connection: socket.socket, proxy: str) -> None:
    with connection, socket.socket(socket.AF_UNIX) as beyond:
        try:
            beyond.connect(proxy)
        except OSError:
            return
        back = threading.Thread(target=_pour, args=(beyond, connection), daemon=True)
        back.start()
        _pour(connection, beyond)
        back.join()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def main(text: str, *command: str) -> None:
    """Set everything up, then become the command."""
    orders: Orders = json.loads(text)
    environment = dict(os.environ)
    _limit(orders["limits"])
    if orders["landlock"]:
        _drop_capabilities()
    ports: list[int] = []
    if orders["proxy"] is not None:
        ports = [_forward(orders["proxy"])]
        address = f"http://127.0.0.1:{ports[0]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            environment[name] = environment[name.upper()] = address
        environment["no_proxy"] = environment["NO_PROXY"] = ""
    if orders["landlock"]:
        restrict(
            orders["readable"],
            orders["writable"],
            ports=None if orders["own_network"] else ports,
        )
    for signum in (signal.SIGINT, signal.SIGPIPE):  # the interpreter has its own ideas of these
        signal.signal(signum, signal.SIG_DFL)
    os.execve(command[0], command, environment)  # noqa: S606 - an argument list, as everywhere


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        print(f"cannot start {sys.argv[2]} behind its walls: {error}", file=sys.stderr)
        sys.exit(_CANNOT_ENTER)
