"""Namespaces of one run, made by the server of runs and by the run's own process.

A server of runs lives in namespaces that bubblewrap made. `enter_nest` gives it a user namespace
below those, in which it may make namespaces of its own and can undo nothing of what bubblewrap put
up: the kernel locks the mounts it inherits (user_namespaces(7)). For each run the server makes a
process namespace (`ProcessNamespace`), whose first process is a ``sleep``: ending that one ends all
of the run, however its processes were named, grouped or orphaned, and the model itself is an
ordinary process, which signals reach as they do elsewhere. In that process `seclude` hides the
other runs' files, and gives everything up that could bring them back.

The standard library only: this runs with the interpreter of a model's environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType

_CLONE_NEWNS = 0x0002_0000
_CLONE_NEWIPC = 0x0800_0000
_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWPID = 0x2000_0000
_CLONE_NEWNET = 0x4000_0000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x2008_0522
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_TEMPORARY, _SHARED_MEMORY = "/tmp", "/dev/shm"  # noqa: S108 - the run's own
_SLEEP_SECONDS = "2147483647"
_PROBE_FAILED = 1


def enter_nest() -> None:
    """Go on as the first process of a process namespace, with rights in it and below it alone.

    Returns in a child; the process that calls this waits for the child, and ends as it does. Must
    be called while there is one thread and nothing to lose.

    Raises
    ------
    OSError
        The kernel, or what surrounds this process, does not allow it.
    """
    uid, gid = os.getuid(), os.getgid()
    _unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)
    child = os.fork()
    if child == 0:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


class ProcessNamespace:
    """A process namespace for one run: processes forked within the block are born in it.

    Attributes
    ----------
    keeper : int
        Process id of its first process, for the server's eyes; the namespace ends with it.
    """

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _unshare(_CLONE_NEWPID)
            try:
                sleep = shutil.which("sleep") or "/bin/sleep"
                self.keeper = os.posix_spawn(sleep, ["sleep", _SLEEP_SECONDS], {})
            except BaseException:
                self._return()
                raise
        except BaseException:
            os.close(self._own)
            raise

    def __enter__(self) -> ProcessNamespace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._return()
        os.close(self._own)
        if error is not None:
            self.end()

    def leave(self) -> None:
        """Let go of the way back to the server's namespace, in a process born in this one."""
        os.close(self._own)

    def end(self) -> None:
        """End every process in it, and wait until all have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.keeper, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.keeper, 0)

    def _return(self) -> None:
        if _libc().setns(self._own, _CLONE_NEWPID) != 0:
            raise _os_error("setns")


def seclude(
    room: str, own: str, *, writable: Sequence[str], temporary: str, shared_memory_bytes: int
) -> None:
    """Leave this process its own directory only, out of those of all runs, and take its rights.

    After this it has a network without any connection, a ``/tmp`` that is its own directory
    `temporary` (or cannot be changed, where the runs' directories lie below it), shared memory of
    its own, and no way back. ``/proc`` shows its own processes, or is empty where the kernel does
    not let it be mounted.

    Parameters
    ----------
    room : str
        Directory of the directories of all runs of this server.
    own : str
        This run's directory, right below `room`.
    writable : sequence of str
        Directories in `own` that can be changed; all else of it cannot.
    temporary : str
        One of them.
    shared_memory_bytes : int
        Size of ``/dev/shm``; 0: the kernel's default, half of the memory.

    Raises
    ------
    OSError
        The kernel does not allow a part of it.
    """
    _unshare(_CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWNET)
    _raise_loopback()
    # as another mount covers its path at once, the directory is held by a descriptor
    kept = os.open(own, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _mount("tmpfs", room, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=64k,mode=755")
        os.mkdir(own)  # noqa: PTH102
        _mount(f"/proc/self/fd/{kept}", own, None, _MS_BIND)
    finally:
        os.close(kept)
    for directory in writable:
        _mount(directory, directory, None, _MS_BIND)
    _mount(None, own, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    _mount(None, room, None, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    if own.startswith(f"{_TEMPORARY}/"):  # what lies there would be covered, too
        _mount(None, _TEMPORARY, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    else:
        _mount(temporary, _TEMPORARY, None, _MS_BIND)
    size = f"size={shared_memory_bytes}," if shared_memory_bytes else ""
    _mount("tmpfs", _SHARED_MEMORY, "tmpfs", _MS_NOSUID | _MS_NODEV, f"{size}mode=1777")
    try:
        _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except OSError:
        _mount("tmpfs", "/proc", "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "size=4k,mode=555")
    _give_up_rights()


def _raise_loopback() -> None:
    """Bring the loopback of this network up, which programs talk to themselves over."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _give_up_rights() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc().capset(header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)) != 0:
        raise _os_error("capset")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _unshare(namespaces: int) -> None:
    if _libc().unshare(namespaces) != 0:
        raise _os_error("unshare")


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    words = [word.encode() if word is not None else None for word in (source, target, kind)]
    data = options.encode() if options is not None else None
    if _libc().mount(*words, ctypes.c_ulong(flags), data) != 0:
        raise _os_error(f"mount {target}")


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, *(ctypes.c_ulong(n) for n in (value, 0, 0, 0))) != 0:
        raise _os_error("prctl")


def _os_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


@contextlib.contextmanager
def _example() -> Iterator[str]:
    """Make a room with the directory of one run."""
    with tempfile.TemporaryDirectory() as room:
        os.makedirs(os.path.join(room, "run", "tmp"))  # noqa: PTH103, PTH118
        yield room


def probe() -> int:
    """Try all of it out; returns an exit code, and says on standard error what is refused."""
    enter_nest()
    with _example() as room:
        own = os.path.join(room, "run")  # noqa: PTH118
        with ProcessNamespace() as namespace:
            child = os.fork()
            if child == 0:
                try:
                    temporary = os.path.join(own, "tmp")  # noqa: PTH118
                    seclude(
                        room, own, writable=[temporary], temporary=temporary,
                        shared_memory_bytes=4096,
                    )  # fmt: skip
                    os._exit(0)
                except OSError as error:
                    print(error, file=sys.stderr, flush=True)
                finally:
                    os._exit(_PROBE_FAILED)
        _, status = os.waitpid(child, 0)
        namespace.end()
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    try:
        sys.exit(probe())
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(_PROBE_FAILED)
