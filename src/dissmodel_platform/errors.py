"""The one tree of errors; every message says what to do next.

::

    PlatformError
     ├─ InvalidInput            what was asked for cannot be; names the field
     ├─ NotFound
     │   ├─ ModelNotFound       carries the nearest known names
     │   ├─ RevisionNotFound
     │   ├─ LockNotFound
     │   ├─ ExperimentNotFound
     │   └─ ObjectNotFound
     ├─ SubmissionConflict      a key or an id stands for another submission already
     ├─ AlreadyFinal            the experiment has ended; nothing left to change
     ├─ TooManyStreams          one key follows more experiments at once than is allowed
     ├─ RequestTimeout          the body of a request did not come in time
     ├─ NotAuthenticated
     ├─ NotAuthorised
     ├─ SettingsError           a setting is missing, unknown or contradictory
     ├─ DatabaseError           PostgreSQL cannot be started, reached or migrated
     ├─ StorageError            the object store refused or broke
     │   └─ UploadTooLarge
     ├─ RegistryError           the registry cannot be synced
     │   ├─ GitError            carries command, exit code and the last lines of stderr
     │   └─ SyncTimeout
     ├─ EnvironmentBuildError   a package cannot be made runnable; carries the tool's output
     │   ├─ PackageNotAllowed   the operator's list of sources lacks where it comes from
     │   ├─ PackageNotFound
     │   ├─ VersionNotFound
     │   ├─ PackageUnsatisfiable
     │   ├─ PackageUnreachable
     │   ├─ PythonMismatch
     │   ├─ BuildFailed
     │   ├─ BuildInterrupted    the worker was stopped meanwhile; says nothing of the package
     │   ├─ ExecutorModuleMissing
     │   ├─ ExecutorClassMissing
     │   └─ ContractCheckFailed
     ├─ ExecutionError
     │   ├─ ModelFailed         the model raised, or was ended by a limit or a signal of its own
     │   └─ RunLost             the machinery failed, not the model: worth another attempt
     └─ ClientError             what the Python client and the command line raise
         ├─ ServerUnreachable   nothing answers at the address
         ├─ ServerRefused       the server answered with an error; carries its problem details
         └─ ExperimentFailed    the experiment that was waited for did not complete
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Self

MOST_FAULTS = 50
"""Faulty fields that one error tells; the others are counted."""


class PlatformError(Exception):
    """Root of every error this package raises on purpose."""

    code = "internal-error"
    """Stable slug: the last part of the problem's ``type`` and the key of the exit-code table."""

    title = "Something went wrong"
    """The kind of fault, the same words for every instance."""


class InvalidInput(PlatformError):
    """What was asked for cannot be done as asked.

    Parameters
    ----------
    message : str
        One sentence that says what to change.
    fields : mapping of str to str, optional
        Faulty fields of the request (dotted path) and what is wrong with each.
    """

    code = "invalid-input"
    title = "Invalid input"

    def __init__(self, message: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields: dict[str, str] = dict(fields or {})

    @classmethod
    def of_fields(cls, faults: Mapping[str, str]) -> Self:
        """Make the error for several faulty fields; of very many, the first ones are told."""
        told = dict(islice(faults.items(), MOST_FAULTS))
        sentence = "; ".join(f"{name}: {text.rstrip('.')}" for name, text in told.items())
        more = len(faults) - len(told)
        rest = f" {more} more fields do not fit." if more else ""
        return cls(f"{sentence}.{rest}", told)


class NotFound(PlatformError):
    """Nothing goes by that name."""

    code = "not-found"
    title = "Not found"


class ModelNotFound(NotFound):
    """No such model at the commit asked for; ``nearest`` lists the closest known names."""

    code = "model-not-found"
    title = "Model not found"

    def __init__(self, name: str, nearest: Sequence[str] = (), *, at: str = "") -> None:
        place = f" at commit {at}" if at else ""
        if nearest:
            hint = "did you mean " + " or ".join(repr(n) for n in nearest) + "?"
        else:
            hint = "GET /models lists the known ones."
        super().__init__(f"There is no model {name!r} in the registry{place}; {hint}")
        self.name = name
        self.nearest = list(nearest)


class RevisionNotFound(NotFound):
    """No published commit goes by that id."""

    code = "revision-not-found"
    title = "Commit not found"


class LockNotFound(NotFound):
    """A model's version has no lock yet."""

    code = "lock-not-found"
    title = "Lock not found"


class ExperimentNotFound(NotFound):
    """No experiment goes by that id."""

    code = "experiment-not-found"
    title = "Experiment not found"

    def __init__(self, experiment_id: str) -> None:
        super().__init__(
            f"There is no experiment {experiment_id!r}; GET /jobs lists the known ones."
        )


class ObjectNotFound(NotFound):
    """The object store holds nothing under that address."""

    code = "object-not-found"
    title = "File not found"


class SubmissionConflict(PlatformError):
    """The idempotency key or the experiment id stands for another submission already."""

    code = "submission-conflict"
    title = "Another submission"


class AlreadyFinal(PlatformError):
    """The experiment has ended, so there is nothing left to change."""

    code = "already-final"
    title = "Experiment already ended"


class TooManyStreams(PlatformError):
    """One key follows more experiments at once than the operator allows."""

    code = "too-many-streams"
    title = "Too many streams"


class RequestTimeout(PlatformError):
    """The body of a request did not come in time."""

    code = "request-timeout"
    title = "Request not finished"


class NotAuthenticated(PlatformError):
    """No key, or one that is not known."""

    code = "not-authenticated"
    title = "Key missing or unknown"


class NotAuthorised(PlatformError):
    """The key is known but does not allow this."""

    code = "not-authorised"
    title = "Not allowed"


class SettingsError(PlatformError):
    """A setting is missing, unknown or contradicts another."""

    code = "invalid-settings"
    title = "Invalid settings"


class DatabaseError(PlatformError):
    """PostgreSQL cannot be started, reached or migrated."""

    code = "database-unavailable"
    title = "Database unavailable"


class StorageError(PlatformError):
    """The object store refused a request or broke off."""

    code = "storage-error"
    title = "Object store error"


class UploadTooLarge(StorageError):
    """The body is larger than the operator allows."""

    code = "upload-too-large"
    title = "Upload too large"


class RegistryError(PlatformError):
    """The registry cannot be synced; the last published commit goes on being served."""

    code = "registry-error"
    title = "Registry cannot be synced"


class GitError(RegistryError):
    """A git command failed.

    Parameters
    ----------
    message : str
        What was attempted and what to do.
    command : sequence of str
        The argument list, secrets redacted.
    exit_code : int or None
        ``None`` when the command was ended by its time limit.
    stderr_tail : str
        Last lines of what git printed, secrets redacted.
    """

    code = "git-failed"

    def __init__(
        self,
        message: str,
        *,
        command: Sequence[str] = (),
        exit_code: int | None = None,
        stderr_tail: str = "",
    ) -> None:
        super().__init__(message)
        self.command = tuple(command)
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail


class SyncTimeout(RegistryError):
    """The sync process did not answer in time."""

    code = "sync-timeout"
    title = "Registry sync did not answer"


class EnvironmentBuildError(PlatformError):
    """A package cannot be made runnable.

    Parameters
    ----------
    message : str
        One sentence that names the package and the cause.
    output_tail : str
        Last lines of the tool's own output.
    """

    code = "environment-failed"
    title = "Environment cannot be built"

    def __init__(self, message: str, output_tail: str = "") -> None:
        super().__init__(message)
        self.output_tail = output_tail


class PackageNotAllowed(EnvironmentBuildError):
    """The package, or one that it needs, is not from a source that the operator lists."""


class PackageNotFound(EnvironmentBuildError):
    """No index or repository has a package of that name."""


class VersionNotFound(EnvironmentBuildError):
    """The package exists, the version, tag or commit asked for does not."""


class PackageUnsatisfiable(EnvironmentBuildError):
    """The requirements contradict one another."""


class PackageUnreachable(EnvironmentBuildError):
    """The index or the git host did not answer; worth another try."""


class PythonMismatch(EnvironmentBuildError):
    """The package asks for another Python than the worker's."""


class BuildFailed(EnvironmentBuildError):
    """The package's own build broke."""


class BuildInterrupted(EnvironmentBuildError):
    """The worker was stopped before the build had ended; it says nothing of the package."""


class ExecutorModuleMissing(EnvironmentBuildError):
    """The package installs, but its executor's module cannot be imported."""


class ExecutorClassMissing(EnvironmentBuildError):
    """The module imports, but registers no executor of the name the spec gives."""


class ContractCheckFailed(EnvironmentBuildError):
    """The executor does not fulfil dissmodel's contract."""


class ExecutionError(PlatformError):
    """A run ended without a result."""

    code = "run-failed"
    title = "Run failed"


class ModelFailed(ExecutionError):
    """The model raised, or a limit or a signal of its own making ended it."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class RunLost(ExecutionError):
    """The machinery failed, not the model; the run is worth another attempt."""

    code = "run-lost"
    title = "Run lost"


class ClientError(PlatformError):
    """The client cannot do what it was asked."""

    code = "client-error"
    title = "Client error"


class ServerUnreachable(ClientError):
    """Nothing answers at the server's address."""

    code = "server-unreachable"
    title = "Server unreachable"


class ServerRefused(ClientError):
    """The server answered with an error.

    Parameters
    ----------
    status : int
        HTTP status.
    problem : mapping of str to object
        The problem details (RFC 9457) that it sent.
    """

    code = "server-refused"
    title = "Server refused"

    def __init__(self, status: int, problem: Mapping[str, object]) -> None:
        super().__init__(str(problem.get("detail") or f"The server answered {status}."))
        self.status = status
        self.problem = dict(problem)


class ExperimentFailed(ClientError):
    """The experiment ended without a result; the message is the reason it gives."""

    code = "experiment-failed"
    title = "Experiment failed"
