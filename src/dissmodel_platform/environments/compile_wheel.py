"""Compile one wheel's modules; run by file name behind walls, with the standard library only.

``python -I -S compile_wheel.py SITE LIST OUT``: SITE is where the wheel is installed, LIST a JSON
file with the modules of each of its directories there, and OUT gets the bytecode of the first
directory in ``0``, of the second in ``1``, and so on.

The bytecode says that it need not be checked against its source (PEP 552): environments do not
change, and a file that is linked again later may have another date. A module that does not compile
(it is for another Python, say) is left out. Where the disk is full, the exit code is the error's
number: the next try may have more luck.
"""

from __future__ import annotations

import errno
import json
import py_compile
import sys
import warnings
from importlib.util import cache_from_source
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def compile_modules(site: str, listed: str, out: str) -> None:
    """Compile what is listed."""
    warnings.simplefilter("ignore")
    modules = json.loads(Path(listed).read_text(encoding="utf-8"))
    for index, (place, names) in enumerate(modules.items()):
        directory = Path(out, str(index))
        directory.mkdir()
        for name in names:
            target = directory / Path(cache_from_source(name)).name
            try:
                py_compile.compile(
                    str(Path(site, place, name)),
                    cfile=str(target),
                    dfile=f"{place}/{name}" if place else name,
                    doraise=True,
                    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                )
            except (
                py_compile.PyCompileError,
                RecursionError,
                MemoryError,
                OSError,
                ValueError,
            ) as e:
                target.unlink(missing_ok=True)
                if isinstance(e, OSError) and e.errno in NO_ROOM:
                    sys.exit(e.errno)


if __name__ == "__main__":
    compile_modules(*sys.argv[1:])
