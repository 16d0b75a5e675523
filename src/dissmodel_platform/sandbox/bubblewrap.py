"""Namespaces of a command's own, made by bubblewrap (bwrap(1)) without any privilege."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_PROBE_SECONDS = 20.0
_INSTALL = "install bubblewrap (`apt-get install bubblewrap`)"


def bubblewrap_command(
    readable: Iterable[Path], writable: Iterable[Path], sockets: Iterable[Path], cwd: Path
) -> list[str]:
    """Return the beginning of a command line: what follows it runs in namespaces of its own.

    There it has no network but a loopback of its own, sees its own processes only, is without
    capabilities, ends when this process ends, and finds nothing but the paths named here beside
    fresh ``/proc``, ``/dev`` and ``/tmp``.

    Parameters
    ----------
    readable, writable : iterable of Path
        What to show, and what to show so that it can be changed; those not there are passed over.
    sockets : iterable of Path
        Unix sockets that it may connect to.
    cwd : Path
        Where it works.
    """
    arguments = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all", "--die-with-parent", "--new-session",
        "--cap-drop", "ALL", "--hostname", "build",
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",  # noqa: S108 - its own
    ]  # fmt: skip
    for path in readable:
        if path.is_symlink() and path.parent == Path("/"):  # such as /bin -> usr/bin
            arguments += ["--symlink", str(path.readlink()), str(path)]
        else:
            arguments += ["--ro-bind-try", str(path.resolve()), str(path)]
    for path in writable:
        arguments += ["--bind-try", str(path), str(path)]
    for path in sockets:
        arguments += ["--ro-bind", str(path), str(path)]
    return [*arguments, "--remount-ro", "/", "--chdir", str(cwd), "--"]


def why_no_namespaces(system: Iterable[Path]) -> str:
    """Try it out; return nothing where it works, else the reason and what to do."""
    if not sys.platform.startswith("linux"):
        return "they are Linux's own"
    if shutil.which("bwrap") is None:
        return f"bwrap is not on the PATH; {_INSTALL}"
    try:
        subprocess.run(
            [*bubblewrap_command(system, (), (), Path("/")), "/bin/sh", "-c", ":"],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        return (
            f"this machine or container does not allow them ({said}); allow unprivileged user "
            "namespaces"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bwrap cannot be run ({error})"
    return ""
