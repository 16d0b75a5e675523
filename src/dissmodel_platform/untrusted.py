"""JSON files that foreign code may have written, read so that nothing in them can do harm."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from dissmodel_platform.storable import storable_json

DEEPEST = 32
"""Lists and objects within one another. Python itself stops at about a thousand, wherever the call
stack happens to stand, so that what was read in one place could not be written in another."""


def read_untrusted_json(path: Path, *, max_bytes: int) -> Any:
    """Read a file's JSON as PostgreSQL and every client can hold it.

    Texts are storable (no NUL, no half characters), numbers that are not finite are ``None``, and
    nothing is nested more than `DEEPEST` deep.

    Parameters
    ----------
    path : Path
        The file; it is opened once, and its last part may not be a link.
    max_bytes : int
        Its largest size. Parsing takes up to twenty times as much memory for a moment.

    Raises
    ------
    FileNotFoundError
        There is no regular file of that name.
    ValueError
        It is larger, nested deeper, or no JSON.
    """
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait for somebody to write to it
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FileNotFoundError(f"{path.name} cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(f"{path.name} is no regular file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes >> 20} MiB")
    try:
        return storable_json(json.loads(content.decode("utf-8")), deepest=DEEPEST)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
