"""Namespaces of a command's own, made by bubblewrap (bwrap(1)) without any privilege."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_NAMESPACES = Path(__file__).with_name("namespaces.py").resolve()
_PROBE_SECONDS = 20.0
_USER = 1000
_INSTALL = "install bubblewrap (`apt-get install bubblewrap`)"


def bubblewrap_command(
    readable: Iterable[Path],
    writable: Iterable[Path],
    sockets: Iterable[Path],
    cwd: Path,
    *,
    nests: bool = False,
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
    nests : bool
        Whether it makes namespaces of its own in these: then it is not root in them, whose number
        the kernel maps no further.
    """
    as_user = nests and os.geteuid() == 0
    arguments = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all", "--die-with-parent", "--new-session",
        *(("--unshare-user", "--uid", str(_USER), "--gid", str(_USER)) if as_user else ()),
        "--cap-drop", "ALL", "--hostname", "sandbox",
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


def why_no_namespaces(system: Iterable[Path], *, nested: bool = False) -> str:
    """Try it out; return nothing where it works, else the reason and what to do.

    Parameters
    ----------
    system : iterable of Path
        What programs need.
    nested : bool
        Whether to try those of single runs, too, inside the others.
    """
    if not sys.platform.startswith("linux"):
        return "they are Linux's own"
    if shutil.which("bwrap") is None:
        return f"bwrap is not on the PATH; {_INSTALL}"
    try:
        readable, tried = [*system], ["/bin/sh", "-c", ":"]
        if nested:
            python = Path(sys.executable).resolve()
            readable += [Path(sys.base_prefix), _NAMESPACES]
            tried = [str(python), "-I", "-S", str(_NAMESPACES)]
        subprocess.run(
            [*bubblewrap_command(readable, (), (), Path("/"), nests=nested), *tried],
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
