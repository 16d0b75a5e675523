"""Give a run back the threads that its server went without, which must not have any to fork."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_LIBRARIES = ("libgomp", "libopenblas", "libscipy_openblas", "libmkl_rt", "libomp", "libiomp")
_SETTERS = (
    "omp_set_num_threads",
    "openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "scipy_openblas_set_num_threads64_",
    "MKL_Set_Num_Threads",
)


def use_threads(count: int) -> None:
    """Let numerical libraries use that many threads: those to come, and those that are loaded."""
    if count <= 1:
        return
    for name in _VARIABLES:
        os.environ[name] = str(count)
    for path in _loaded():
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(path)
            for setter in _SETTERS:
                with contextlib.suppress(AttributeError):
                    getattr(library, setter)(ctypes.c_int(count))


def _loaded() -> set[str]:
    """Return the paths of the libraries in this process that compute in threads."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return set()
    paths = {line.partition("/")[2] for line in lines}
    return {f"/{path}" for path in paths if Path(path).name.startswith(_LIBRARIES)}
