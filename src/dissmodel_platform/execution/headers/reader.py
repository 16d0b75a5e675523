"""The worker's side: hands open files to the reading process, and ends it where it fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import dissmodel_platform
from dissmodel_platform.storable import storable_json

SECONDS = 5.0
"""For one file; a true header takes a millisecond."""

KINDS = {".tif": b"t", ".tiff": b"t", ".gpkg": b"g"}
"""By suffix, what the process is asked for."""

_LONGEST_ANSWER_BYTES = 1024**2
_DEEPEST = 8
_ROOT = str(Path(dissmodel_platform.__file__).parent.parent)
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from dissmodel_platform.execution.headers.server import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
)


class HeaderReader:
    """Reads headers, one at a time; its process is started when it is needed.

    Parameters
    ----------
    directory : Path
        Below which the files are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._channel: socket.socket | None = None

    async def read(self, descriptor: int, name: str) -> dict[str, Any]:
        """Read what an open GeoTIFF or GeoPackage says of itself.

        Parameters
        ----------
        descriptor : int
            Open for reading.
        name : str
            Its name; the suffix is one of `KINDS`.

        Raises
        ------
        ValueError
            It cannot be read; the message is the end of a sentence.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(SECONDS):
                    answer = await self._ask(KINDS[Path(name).suffix.lower()], descriptor)
            except TimeoutError as error:
                await self._end()
                raise ValueError(f"its header took longer than {SECONDS:g} s") from error
            except (OSError, EOFError) as error:
                await self._end()
                raise ValueError("it ended the process that read it") from error
            except BaseException:  # the answer would be taken for the next file's
                await self._end()
                raise
            if "reason" in answer:
                await self._end()  # a forged file is not to touch what is read after it
                raise ValueError(str(answer["reason"]))
        header: dict[str, Any] = answer["header"]
        return header

    async def close(self) -> None:
        """End the process."""
        async with self._turn:
            await self._end()

    async def _ask(self, kind: bytes, descriptor: int) -> dict[str, Any]:
        channel = self._channel or await self._start()
        socket.send_fds(channel, [kind], [descriptor])
        received = b""
        while not received.endswith(b"\n"):
            piece = await asyncio.get_running_loop().sock_recv(channel, 65_536)
            received += piece
            if not piece or len(received) > _LONGEST_ANSWER_BYTES:
                raise EOFError
        answer: dict[str, Any] = storable_json(json.loads(received), deepest=_DEEPEST)
        return answer

    async def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._channel = ours
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, _ROOT, str(theirs.fileno()),
                str(os.getpid()), str(self._directory),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL, env={}, cwd="/",
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        finally:
            theirs.close()
        return ours

    async def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None
