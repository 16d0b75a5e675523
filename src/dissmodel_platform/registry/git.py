"""The one runner of git commands: bounded in time and output, in an environment of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.errors import SettingsError
from dissmodel_platform.registry.git_config import (
    TOKEN_VARIABLE,
    GitAccess,
    configuration,
    environment,
)
from dissmodel_platform.registry.git_faults import (
    ADVICE,
    GitFailed,
    GitFault,
    classify,
    disk_errors,
    redact,
    tail,
)
from dissmodel_platform.registry.git_process import GitProcess
from dissmodel_platform.registry.orphans import WRITER_VARIABLE, writer_mark
from dissmodel_platform.storable import printable_text

LOCAL_TIMEOUT_SECONDS = 120.0
"""Limit for a command that reads or writes the mirror alone."""

MAX_OUTPUT_BYTES = 32 * 1024**2
"""Most that a command may print, in bytes."""

_REMEMBERED_SECRETS = 8

OLDEST_VERSION = (2, 32)
"""The first that reads GIT_CONFIG_GLOBAL; an older one would read the user's configuration."""


@dataclass(frozen=True, slots=True)
class GitOutput:
    """What an ended command left behind; ``stderr`` is redacted and bounded."""

    exit_code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text, without the blanks around it."""
        return self.stdout.decode("utf-8", "replace").strip()


class Git:
    """Runs git for one mirror and one remote; may be shared by threads.

    Parameters
    ----------
    access : GitAccess
        What git may touch and reach.
    config_file : Path
        Where the configuration is written, before the first command.
    environ : mapping of str to str, optional
        The operator's environment, of which a few names are kept; the process's own by default.
    max_file_bytes : int
        Largest file that a command may write (a fetched pack), in bytes; on Linux only.
    """

    def __init__(
        self,
        access: GitAccess,
        config_file: Path,
        *,
        environ: Mapping[str, str] | None = None,
        max_file_bytes: int = 2 * 1024**3,
    ) -> None:
        self.access = access
        self._config_file = config_file
        self._environ = dict(os.environ if environ is None else environ)
        self._max_file_bytes = max_file_bytes
        self._guard = threading.Lock()
        self._running: set[GitProcess] = set()
        # A token may be replaced while a command runs that still has the one before.
        token = access.credentials.read_token()
        self._secrets: deque[str] = deque([token] if token else [], maxlen=_REMEMBERED_SECRETS)
        self._is_interrupted = False
        self._is_prepared = False

    def run(
        self,
        *arguments: str,
        directory: Path | None = None,
        stdin: bytes = b"",
        network: bool = False,
        timeout_seconds: float = LOCAL_TIMEOUT_SECONDS,
        expected: Sequence[int] = (0,),
        inherit: Sequence[int] = (),
        variables: Mapping[str, str] | None = None,
        max_output_bytes: int = MAX_OUTPUT_BYTES,
    ) -> GitOutput:
        """Run one command to its end.

        Parameters
        ----------
        *arguments : str
            As after ``git``.
        directory : Path, optional
            The repository; it is never looked for in the directories above.
        stdin : bytes
            What the command reads.
        network : bool
            Whether it talks to the remote (and gets the credentials).
        timeout_seconds : float
            When it is ended, with all that it started.
        expected : sequence of int
            Exit codes that are no failure.
        inherit : sequence of int
            File descriptors that the command keeps open: that of the mirror's lock.
        variables : mapping of str to str, optional
            What its environment holds besides.
        max_output_bytes : int
            Most that it may print to standard output, in bytes.

        Raises
        ------
        GitFailed
            Another exit code, too much output, the time limit, or no usable git.
        """
        with self.stream(
            *arguments,
            directory=directory,
            stdin=stdin,
            network=network,
            timeout_seconds=timeout_seconds,
            inherit=inherit,
            variables=variables,
        ) as process:
            stdout = process.read(max_output_bytes)
            exit_code = process.wait()
            output = GitOutput(exit_code, stdout, self._printable(process.stderr))
        fault = process.ended_for
        if fault is None and exit_code not in expected:
            fault = classify(output.stderr, network=network)
        if fault is not None:
            raise self._failure(fault, arguments, output)
        return output

    @contextlib.contextmanager
    def stream(
        self,
        *arguments: str,
        directory: Path | None = None,
        stdin: bytes = b"",
        network: bool = False,
        timeout_seconds: float = LOCAL_TIMEOUT_SECONDS,
        inherit: Sequence[int] = (),
        variables: Mapping[str, str] | None = None,
    ) -> Iterator[GitProcess]:
        """Start a command whose output is read piece by piece; parameters as in :meth:`run`.

        After the block, nothing that the command started is left. Its exit code is not looked at:
        the reader tells a complete answer from a broken one.
        """
        self._prepare()
        with tempfile.TemporaryFile() as source:
            source.write(stdin)
            source.seek(0)
            process = self._start(
                arguments, directory, source.fileno(), network, inherit, variables or {}
            )
            try:
                process.end_after(timeout_seconds)
                yield process
            finally:
                process.close()
                with self._guard:
                    self._running.discard(process)

    def interrupt(self) -> None:
        """End the commands that run now and refuse new ones; for shutting down."""
        with self._guard:
            self._is_interrupted = True
            running = list(self._running)
        for process in running:
            process.end(GitFault.INTERRUPTED)

    def failure_of(self, process: GitProcess, arguments: Sequence[str]) -> GitFailed:
        """Describe a streamed command whose answer broke off."""
        fault = process.ended_for  # before we end it ourselves
        process.close()
        output = GitOutput(process.wait(), b"", self._printable(process.stderr))
        return self._failure(fault or classify(output.stderr, network=False), arguments, output)

    def _prepare(self) -> None:
        """Write the configuration and check git's version, once."""
        with self._guard:
            # Without its file git would fall back to defaults that allow far more.
            if self._is_prepared and self._config_file.exists():
                return
            with disk_errors():
                self._config_file.parent.mkdir(parents=True, exist_ok=True)
                beside = self._config_file.with_name(f"{self._config_file.name}.{os.getpid()}")
                beside.write_text(configuration(self.access), encoding="utf-8")
                beside.replace(self._config_file)
            self._is_prepared = True
        found = re.search(r"(\d+)\.(\d+)", self.run("version").text)
        if found is None or (int(found[1]), int(found[2])) < OLDEST_VERSION:
            self._is_prepared = False
            raise GitFailed(GitFault.MISSING, f"{ADVICE[GitFault.MISSING]}.", command=["git"])

    def _start(
        self,
        arguments: Sequence[str],
        directory: Path | None,
        stdin: int,
        network: bool,
        inherit: Sequence[int],
        besides: Mapping[str, str],
    ) -> GitProcess:
        variables = {**self._variables(arguments, network), **besides}
        if directory is not None:
            variables["GIT_DIR"] = str(directory)
        if inherit:
            variables[WRITER_VARIABLE] = writer_mark()
        with self._guard:
            if self._is_interrupted:
                raise self._failure(GitFault.INTERRUPTED, arguments, None)
            try:
                child = subprocess.Popen(
                    ["git", *arguments],
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    env=variables,
                    start_new_session=True,
                    # Python ignores SIGXFSZ, and so shall git: it then says "File too large"
                    # where it would be ended without a word.
                    restore_signals=False,
                    pass_fds=inherit,
                )
            except OSError as error:
                raise self._failure(GitFault.MISSING, arguments, None) from error
            process = GitProcess(child, self._max_file_bytes)
            self._running.add(process)
        return process

    def _variables(self, arguments: Sequence[str], network: bool) -> dict[str, str]:
        try:
            variables = environment(self.access, self._config_file, self._environ, network=network)
        except SettingsError as error:  # the token's file, read anew
            raise GitFailed(
                GitFault.AUTHENTICATION, str(error), command=["git", *arguments]
            ) from error
        token = variables.get(TOKEN_VARIABLE)
        if token is not None and token not in self._secrets:
            self._secrets.append(token)
        return variables

    def _printable(self, stderr: str) -> str:
        # A host may print anything. Redacted after that is plain, or odd characters could hide a
        # secret, and before it is cut, or a part of one would remain.
        return tail(redact(printable_text(stderr), tuple(self._secrets)))

    def _failure(
        self, fault: GitFault, arguments: Sequence[str], output: GitOutput | None
    ) -> GitFailed:
        secrets = tuple(self._secrets)
        stderr = output.stderr if output else ""
        last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "")
        return GitFailed(
            fault,
            f"{ADVICE[fault]} (git said: {last.strip()})." if last else f"{ADVICE[fault]}.",
            command=["git", *(redact(argument, secrets) for argument in arguments)],
            exit_code=output.exit_code if output else None,
            stderr_tail=stderr,
        )
