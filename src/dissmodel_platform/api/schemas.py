"""Bodies of requests and answers; the names are the contract of existing clients."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Header, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from dissmodel_platform.types import ExperimentStatus, Priority


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds a character that cannot be stored (NUL or half a character)")
    return text


Text = Annotated[str, AfterValidator(_storable)]
"""Text that PostgreSQL can hold, and that can be looked for there."""

Commit = Annotated[
    Text | None, Query(description="A published commit of the registry; the newest by default.")
]
"""Which version of a model is meant."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern="^[ -~]{1,255}$",
        description="Your own name for this submission: sent again with it, the same request is "
        "answered with the experiment that is there already.",
    ),
]


def _plain_id(text: str) -> str:
    plain = text.replace("-", "").lower() if _UUID.fullmatch(text) else text.lower()
    if not _EXPERIMENT_ID.fullmatch(plain):
        raise ValueError("an experiment id is a UUID, or 32 hexadecimal digits")
    return plain


_EXPERIMENT_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)

InputFormat = Literal["auto", "tiff", "geotiff", "raster", "vector", "zarr"]


class _RunBody(BaseModel):
    input_dataset: Text = Field(
        description="Address of the input: the uri of an upload, http(s), or empty for none.",
        examples=["s3://dissmodel-inputs/inputs/demo/grid.zip"],
    )
    input_sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-fA-F]{64}$",
        description="Content that the input must have; another one is refused.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )
    input_format: InputFormat = "auto"
    parameters: dict[str, JsonValue] = Field(default={}, examples=[{"end_time": 20}])
    column_map: dict[str, str] = Field(
        default={}, description="Canonical column name → name in the data."
    )
    band_map: dict[str, JsonValue] = Field(
        default={}, description="Canonical band name → name or number in the data."
    )
    experiment_id: Annotated[str, AfterValidator(_plain_id)] | None = Field(
        default=None,
        description="An id of your own for the experiment (a UUID); one that is there already is "
        "answered with its experiment, if that was the same request.",
    )


class JobRequest(_RunBody):
    """A run of a published model."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: Text = Field(examples=["flood_vector"])
    priority: Priority = Priority.NORMAL
    model_commit: Text | None = Field(
        default=None,
        min_length=1,
        description="A published commit of the registry; the newest by default.",
    )


class InlineJobRequest(_RunBody):
    """A run of a spec that comes with the request; not reproducible through the registry."""

    model_config = ConfigDict(protected_namespaces=())

    model_spec_toml: str = Field(examples=['[model]\nclass = "game_of_life"\n'])


class Job(BaseModel):
    """Where an experiment stands."""

    model_config = ConfigDict(protected_namespaces=())

    job_id: str
    experiment_id: str
    status: ExperimentStatus
    model_name: str
    created_at: datetime
    output_path: str | None
    output_sha256: str | None
    input_sha256: str | None
    logs: list[str]
    model_commit: str
    code_version: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: dict[str, Any] | None = None
    expected_end: datetime | None = Field(
        default=None, description="While the model simulates: when that will be done."
    )
    warnings: list[str] = []
    reproduces: str | None = None


class LogEntry(BaseModel):
    """One line of a run's log."""

    id: int = Field(description="Its place: the `id` that the stream of events gives it.")
    at: datetime = Field(description="When it was printed.")
    attempt: int
    stream: Literal["stdout", "stderr", "record", "platform"]
    text: str


class LogPage(BaseModel):
    """A part of a run's log, oldest line first."""

    lines: list[LogEntry]
    next: int | None = Field(description="`cursor` of the following page.")


class JobPage(BaseModel):
    """One page of experiments, newest first."""

    experiments: list[Job]
    total: int
    next: str | None


class EnvironmentState(BaseModel):
    """How a model's environment stands."""

    state: Literal["pending", "building", "ready", "failed"]
    key: str | None = Field(description="Names the content of the environment, once it works.")
    seconds: float | None = Field(description="What building it took.", examples=[12.5])
    error: str | None = Field(description="Why it cannot be built, in one sentence.")


class EnvironmentDetail(EnvironmentState):
    """The same, with what the tools said."""

    output_tail: str | None = Field(description="Last lines of the tool's output, if it failed.")


class Model(BaseModel):
    """One entry of the model listing; ``class`` is the executor's registered name."""

    model_config = ConfigDict(populate_by_name=True)

    name: str
    class_: str | None = Field(alias="class", serialization_alias="class")
    description: str
    package: str | None
    stale: bool = Field(description="Whether the file has been broken since this version.")
    environment: EnvironmentState


class ModelPage(BaseModel):
    """One page of models, by name."""

    models: list[Model]
    commit: str | None
    next: str | None


class ModelDetail(BaseModel):
    """One model with its whole spec."""

    model_config = ConfigDict(protected_namespaces=(), populate_by_name=True)

    model_name: str
    spec: dict[str, Any]
    class_: str | None = Field(alias="class", serialization_alias="class")
    description: str
    package: str | None
    stale: bool
    environment: EnvironmentDetail
    commit: str


class BuildAnswer(BaseModel):
    """That a build was asked for, and how the environment stood."""

    model_config = ConfigDict(protected_namespaces=())

    message: str
    model_name: str = Field(examples=["flood_vector"])
    commit: str
    environment: EnvironmentState


class LockEntry(BaseModel):
    """One package of a lock."""

    name: str = Field(examples=["coastal-flood"])
    version: str = Field(examples=["0.1.0"])
    source: str | None = Field(
        description="Address of its git repository or of its one file; null: a package index.",
        examples=["https://git.example.org/group/coastal-flood"],
    )
    commit: str | None = Field(
        description="Commit of a git source.", examples=["8f3b1d2c4e5f60718293a4b5c6d7e8f901234567"]
    )
    subdirectory: str | None = Field(description="Where the project lies in that repository.")
    hashes: list[str] = Field(
        description="Of the files that may be installed, as `sha256:…`; none for a git source."
    )
    built: bool = Field(description="Whether its wheel was built when the lock was made.")
    wheel_sha256: str | None = Field(description="SHA-256 of the wheel that was built.")


class ModelLock(BaseModel):
    """The packages that the runs of a model's version are made of."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(examples=["flood_vector"])
    commit: str = Field(description="The commit of the registry that was asked for.")
    sha256: str = Field(description="Of the lock file; records call it `lock_sha256`.")
    created_at: datetime
    file_name: str = Field(examples=["pylock.flood_vector.toml"])
    package: str | None = Field(examples=["coastal-flood==0.1.0"])
    package_version: str | None = Field(examples=["0.1.0"])
    package_commit: str | None
    dissmodel_version: str | None = Field(examples=["0.6.2"])
    packages: list[LockEntry]


class PackageVersion(BaseModel):
    """A package of a lock, in short."""

    version: str = Field(examples=["0.1.0"])
    commit: str | None = Field(description="Commit of a git source.")


class LockedName(PackageVersion):
    """A package that one of two locks has only."""

    name: str = Field(examples=["coastal-flood"])


class LockChange(BaseModel):
    """A package that differs; only its files do where both versions and commits are the same."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(examples=["dissmodel"])
    from_: PackageVersion = Field(alias="from", serialization_alias="from")
    to: PackageVersion


class RelockAnswer(BaseModel):
    """What came of a request for a new lock."""

    model_config = ConfigDict(protected_namespaces=())

    message: str = Field(examples=["Nothing changes: the lock of 'flood' holds what is newest."])
    relock_id: str = Field(description="Names the request.")
    model_name: str = Field(examples=["flood_vector"])
    commit: str = Field(description="The commit of the registry that has the version.")
    state: Literal["waiting", "done", "failed"]
    requested_at: datetime
    finished_at: datetime | None
    old_lock_sha256: str | None = Field(description="The lock that counted before, if any did.")
    new_lock_sha256: str | None = Field(description="The one that counts since; may be the same.")
    added: list[LockedName]
    removed: list[LockedName]
    changed: list[LockChange]
    error: str | None = Field(description="Why there is no new lock.")
    output_tail: str = Field(description="Last lines of the tool's output then.")


class Cancelled(BaseModel):
    """Answer to a cancellation."""

    message: str
    experiment_id: str


class Upload(BaseModel):
    """An uploaded file."""

    uri: str
    label: str
    checksum: str
    size_mb: float
    size_bytes: int


class DownloadLink(BaseModel):
    """A link that opens one file, without a header, until it expires."""

    url: str
    expires_in_hours: float


class RegistryProblem(BaseModel):
    """What is wrong with one file of the registry."""

    path: str
    line: int | None
    column: int | None
    severity: str
    code: str
    message: str


class SyncAnswer(BaseModel):
    """What a sync found and published."""

    message: str
    git_output: str
    run_id: str
    trigger: str
    outcome: Literal["published", "unchanged", "held", "failed"]
    hold: str | None = Field(description="Why the new commit waits to be accepted.")
    error: str | None
    old_commit: str | None
    new_commit: str | None
    added: list[str]
    changed: list[str]
    removed: list[str]
    changed_keys: dict[str, list[str]] = Field(
        description="For each changed model, the keys of its spec that differ."
    )
    problem_count: int
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None


class SyncResult(SyncAnswer):
    """The sync that was asked for, with what is wrong with the registry's files."""

    problems: list[RegistryProblem] = Field(
        description="The first hundred; `problem_count` counts all of GET /registry/problems."
    )


class RegistrySyncs(BaseModel):
    """Ended syncs, newest first."""

    syncs: list[SyncAnswer]


class AcceptRequest(BaseModel):
    """Which held commit is meant."""

    commit: Text = Field(
        min_length=7,
        max_length=64,
        description="At least 7 digits of the commit that waits, as `GET /health` names it.",
    )


class Accepted(BaseModel):
    """The commit that was accepted, and the sync that followed."""

    accepted_commit: str
    sync: SyncResult


class Catalog(BaseModel):
    """The registry's data sets by name, at a commit."""

    commit: str | None
    sources: dict[str, dict[str, Any]]


class WebhookAnswer(BaseModel):
    """Whether a webhook leads to a sync."""

    message: str
    syncing: bool


class ModelVersion(BaseModel):
    """A version of a model: the commit that brought it, and the one that replaced it."""

    commit: str
    published_at: datetime
    until_commit: str | None
    until: datetime | None
    blob_oid: str
    package: str | None
    description: str


class ModelHistory(BaseModel):
    """The versions of a model, newest first."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    versions: list[ModelVersion]


class RegistryProblems(BaseModel):
    """One page of what is wrong with the registry's files, at the commit that is served."""

    commit: str | None = None
    problems: list[RegistryProblem]
    total: int
    next: str | None


class Artifact(BaseModel):
    """One file of a result."""

    name: str
    uri: str
    sha256: str
    size_bytes: int
    media_type: str
    spatial: dict[str, JsonValue] | None = Field(
        default=None,
        description="What a GeoTIFF or GeoPackage says of itself: CRS, extent, bands, layers.",
        examples=[{"format": "GeoTIFF", "crs": "EPSG:31983", "width": 300, "height": 200}],
    )


class Artifacts(BaseModel):
    """The files of a result."""

    artifacts: list[Artifact]


class Health(BaseModel):
    """Whether the API reaches its database and store, and whether models can be run."""

    status: Literal["healthy", "unhealthy"]
    ready: bool
    reasons: list[str]
    version: str
    registry_commit: str | None = None
    last_success: datetime | None = None
    walls: dict[str, list[str]] = Field(
        default={}, description="Walls that stand around `builds` of packages and around `runs`."
    )
    missing_walls: list[str] = Field(
        default=[], description="A sentence for each wall that does not stand."
    )
