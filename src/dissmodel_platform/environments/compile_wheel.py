"""Compile one wheel's modules; run by file name behind walls, with the standard library only.

``python -I -S compile_wheel.py SITE LIST OUT``: SITE is where the wheel is installed, LIST a JSON
list of its modules there, and OUT gets a tree of ``__pycache__`` directories.

The bytecode says that it need not be checked against its source (PEP 552): environments do not
change, and a file that is linked again later may have another date. A module that does not compile
(it is for another Python, say) is left out.
"""

from __future__ import annotations

import json
import py_compile
import sys
import warnings
from importlib.util import cache_from_source
from pathlib import Path


def compile_modules(site: str, listed: str, out: str) -> None:
    """Compile what is listed; each result lies under OUT where it belongs under SITE."""
    warnings.simplefilter("ignore")
    for name in json.loads(Path(listed).read_text(encoding="utf-8")):
        target = Path(out, cache_from_source(name))
        try:
            py_compile.compile(
                str(Path(site, name)),
                cfile=str(target),
                dfile=name,
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except (py_compile.PyCompileError, RecursionError, MemoryError, OSError, ValueError):
            target.unlink(missing_ok=True)


if __name__ == "__main__":
    compile_modules(*sys.argv[1:])
