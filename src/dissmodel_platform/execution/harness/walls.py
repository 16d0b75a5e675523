"""The walls of one run, from inside: which stand, and how they are put up.

The code that does it is the sandbox's, found beside this package by its place on the disk, since
the model's environment does not have the platform.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

SANDBOX = Path(__file__).resolve().parents[2] / "sandbox"


@dataclass(frozen=True)
class RunWalls:
    """What stands around each run of a server.

    Attributes
    ----------
    namespaces : bool
        Whether each run has namespaces of its own.
    landlock : bool
        Whether Landlock's rules hold.
    room : str
        Directory of the runs' own directories.
    readable, writable : sequence of str
        What a run may read, and also write, beside its own directory.
    """

    namespaces: bool
    landlock: bool
    room: str
    readable: Sequence[str]
    writable: Sequence[str]

    def enter_nest(self) -> None:
        """Go on where runs can be given namespaces; see `namespaces.enter_nest`."""
        if self.namespaces:
            _module("namespaces").enter_nest()

    def new_namespace(self) -> contextlib.AbstractContextManager[Any]:
        """Open the process namespace of a run, if there are namespaces; else `None`."""
        if not self.namespaces:
            return contextlib.nullcontext()
        namespace: contextlib.AbstractContextManager[Any] = _module("namespaces").ProcessNamespace()
        return namespace

    def close_in(self, directory: Path, limits: Mapping[str, int]) -> None:
        """Put the walls up around this process, which has become a run; there is no way back.

        Parameters
        ----------
        directory : Path
            The run's own directory, with ``inputs``, ``outputs``, ``result``, ``home`` and ``tmp``.
        limits : mapping of str to int
            Resource limits by name (``RLIMIT_…``).

        Raises
        ------
        OSError
            The kernel refuses a part of it.
        """
        own = {name: str(directory / name) for name in ("outputs", "result", "home", "tmp")}
        os.environ["HOME"], os.environ["TMPDIR"] = own["home"], own["tmp"]
        tempfile.tempdir = None  # what a module may have asked for at its import
        if self.namespaces:
            _module("namespaces").seclude(
                self.room,
                str(directory),
                writable=[*own.values()],
                temporary=own["tmp"],
                shared_memory_bytes=limits.get("RLIMIT_DATA", 0),
            )
        if self.landlock:
            _module("enter").restrict(
                [*self.readable, str(directory)],
                [*self.writable, *own.values()],
                ports=None if self.namespaces else [],
            )


def _module(name: str) -> ModuleType:
    """Return a module of the sandbox, under a name that hides none of the model's."""
    full_name = f"{__package__}.sandbox_{name}"
    if full_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(full_name, SANDBOX / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules[full_name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full_name]
