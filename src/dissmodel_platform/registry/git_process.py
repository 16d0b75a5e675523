"""One running git command and all that it starts: read with a bound, ended as a whole."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import threading
from typing import IO

from dissmodel_platform.registry.git_faults import GitFault

_CHUNK_BYTES = 64 * 1024
_KEPT_STDERR_BYTES = 32 * 1024
_PATIENCE_SECONDS = 5.0

MAX_MEMORY_BYTES = 512 * 1024**2
"""Most memory of its own that each of a command's processes may have, in bytes; on Linux only.

A registry of text needs a tenth; a delta of a huge file would need that file's size.
"""


class GitProcess:
    """A command in a session of its own, so that its helpers end with it.

    Parameters
    ----------
    child : subprocess.Popen
        Started with pipes for its output and ``start_new_session``.
    max_file_bytes : int
        Largest file that it and its helpers may write, in bytes.
    """

    def __init__(self, child: subprocess.Popen[bytes], max_file_bytes: int) -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        self._child = child
        self._stdout: IO[bytes] = child.stdout
        self._stderr = bytearray()
        self._is_cut = False
        self._guard = threading.Lock()
        self._timer: threading.Timer | None = None
        self.ended_for: GitFault | None = None
        """Why it was ended from outside; ``None`` while it runs and where it ended by itself."""
        self._drain = threading.Thread(target=self._drain_stderr, args=(child.stderr,), daemon=True)
        self._drain.start()
        if hasattr(resource, "prlimit"):
            for what, most in (
                (resource.RLIMIT_FSIZE, max_file_bytes),
                (resource.RLIMIT_DATA, MAX_MEMORY_BYTES),
            ):
                hard = resource.getrlimit(what)[1]
                limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    resource.prlimit(child.pid, what, (limit, limit))

    @property
    def stderr(self) -> str:
        """The last of what it printed to standard error; begins with a whole word.

        So no secret is cut, of which a part would not be recognised.
        """
        text = self._stderr.decode("utf-8", "replace")
        return text[len(re.split(r"\s", text, maxsplit=1)[0]) :] if self._is_cut else text

    def end_after(self, seconds: float) -> None:
        """End it when it takes longer than that."""
        self._timer = threading.Timer(seconds, self.end, (GitFault.TIMEOUT,))
        self._timer.daemon = True
        self._timer.start()

    def read(self, limit: int) -> bytes:
        """Read standard output to its end; more than ``limit`` bytes end the command."""
        chunks: list[bytes] = []
        size = 0
        while chunk := self._stdout.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > limit:
                self.end(GitFault.TOO_LARGE)
                break
            chunks.append(chunk)
        return b"".join(chunks)

    def read_line(self, limit: int = 4096) -> bytes:
        """Read one line of standard output, its newline included; empty at the end."""
        return self._stdout.readline(limit)

    def read_exactly(self, size: int) -> bytes:
        """Read ``size`` bytes of standard output; fewer only where it ends before."""
        return self._stdout.read(size)

    def skip(self, size: int) -> None:
        """Read and forget ``size`` bytes of standard output."""
        while size > 0 and (chunk := self._stdout.read(min(size, _CHUNK_BYTES))):
            size -= len(chunk)

    def wait(self) -> int:
        """Wait for its end and return the exit code (negative: ended by that signal)."""
        exit_code = self._child.wait()
        self._drain.join(_PATIENCE_SECONDS)
        return exit_code

    def end(self, fault: GitFault) -> None:
        """End it and its helpers at once; ``fault`` becomes the reason unless there is one."""
        with self._guard:
            if self._child.returncode is None:
                self.ended_for = self.ended_for or fault
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._child.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing behind; does nothing to a command that has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self._child.poll() is None:
            self.end(GitFault.INTERRUPTED)
        self._child.wait()
        self._stdout.close()
        self._drain.join(_PATIENCE_SECONDS)

    def _drain_stderr(self, stderr: IO[bytes]) -> None:
        with stderr:
            while chunk := os.read(stderr.fileno(), _CHUNK_BYTES):
                self._stderr += chunk
                if len(self._stderr) > _KEPT_STDERR_BYTES:
                    del self._stderr[: -_KEPT_STDERR_BYTES // 2]
                    self._is_cut = True
