"""What the embedded PostgreSQL says, in a file of bounded size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LIMIT_BYTES = 4 * 1024**2
_TAIL_BYTES = 2_000


class ServerLog:
    """The file that the server's output is appended to.

    The server writes to it directly, so that nothing is lost when we are gone.

    Parameters
    ----------
    path : path
        Lies in a directory that only we can write to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start_offset = 0

    @contextmanager
    def open(self) -> Iterator[int]:
        """Hand out a descriptor to append to; `tail` then shows only what comes after this."""
        self.bound()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        try:
            self._start_offset = os.fstat(descriptor).st_size
            yield descriptor
        finally:
            os.close(descriptor)

    def bound(self) -> None:
        """Copy a log that has grown too long to ``….1`` and empty it; to be called now and then.

        The server appends, so it goes on at the new end; a line that it writes between copying and
        emptying is lost.
        """
        with suppress(FileNotFoundError):
            if self.path.stat().st_size > _LIMIT_BYTES:
                shutil.copyfile(self.path, self.path.with_name(f"{self.path.name}.1"))
                os.truncate(self.path, 0)

    def tail(self) -> str:
        """Return the last lines that were written since `open`."""
        with suppress(FileNotFoundError), self.path.open("rb") as lines:
            size = lines.seek(0, os.SEEK_END)
            start = self._start_offset if self._start_offset <= size else 0
            lines.seek(max(start, size - _TAIL_BYTES))
            return lines.read().decode(errors="replace").strip()
        return ""
