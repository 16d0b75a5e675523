"""Settings: one frozen object, read from the environment once and passed down.

The names an operator knows from the platform's `.env` (`CONFIGS_REPO`, `DATABASE_URL`, …) stand as
they are; all others start with ``PLATFORM_``, and an unknown one with that prefix is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dissmodel_platform.errors import SettingsError

PREFIX = "PLATFORM_"


def default_home() -> Path:
    """Return one user's data directory: ``$XDG_DATA_HOME/dissmodel-platform``."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "dissmodel-platform"


_YEAR_SECONDS = 366 * 86_400.0


def _known_as(name: str) -> Any:
    return Field(validation_alias=AliasChoices(name, name.lower()))


def _between(lower: float, upper: float) -> Any:
    return Field(ge=lower, le=upper, allow_inf_nan=False)


class Settings(BaseSettings):
    """Everything that an operator can set; every default works on a laptop."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, populate_by_name=True
    )

    home: Path = Field(default_factory=default_home)
    """Data directory: database, objects, mirror, environments, caches, key file."""

    configs_repo: Annotated[str | None, _known_as("CONFIGS_REPO")] = None
    """Address of the registry's git repository; unset: a local one made from the template."""

    configs_branch: Annotated[str | None, _known_as("CONFIGS_BRANCH")] = None
    """Branch that is served; unset: the one the remote's HEAD names."""

    configs_sync_interval: Annotated[
        float, _known_as("CONFIGS_SYNC_INTERVAL"), _between(1, _YEAR_SECONDS)
    ] = 900.0
    """Seconds between two looks at the remote (jitter of a tenth is added)."""

    registry_on_rewrite: Literal["accept", "hold"] = "accept"
    """What to do when the branch's history was rewritten: publish, or wait for an administrator."""

    registry_token: SecretStr | None = None
    """Access token for a private registry over https."""

    registry_token_file: Path | None = None
    """File that holds the access token instead."""

    registry_ssh_key: Path | None = None
    """Private key for a private registry over ssh; unset: the keys of the agent."""

    registry_known_hosts: Path | None = None
    """Keys of the ssh hosts that are trusted; unset: the user's own file."""

    registry_require_signature: bool = False
    """Whether only commits are published that a trusted key has signed."""

    registry_allowed_signers: Path | None = None
    """SSH keys whose signatures count (ssh-keygen's allowed-signers file)."""

    registry_keyring: Path | None = None
    """OpenPGP keys whose signatures count, as `gpg --export` writes them."""

    registry_history_days: Annotated[float, _between(0.01, 36_525)] = 90.0
    """Days for which ended syncs are kept."""

    registry_stale_seconds: Annotated[float, _between(0, _YEAR_SECONDS)] = 0.0
    """Seconds without a successful sync after which `/health` gives a reason; 0: four intervals."""

    webhook_secret: SecretStr | None = None
    """Secret that the forge signs its webhooks with; unset: webhooks are refused."""

    database_url: Annotated[SecretStr | None, _known_as("DATABASE_URL")] = None
    """PostgreSQL address; unset: the embedded server below ``home``."""

    storage_url: Annotated[str | None, _known_as("STORAGE_URL")] = None
    """Object store (``file://``, ``s3://bucket/prefix``, ``gs://``, ``az://``); unset: a directory
    below ``home``."""

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, _known_as("API_KEYS")] = ()
    """Comma-separated secrets, each with every scope; unset: one is generated at first start."""

    public_url: str | None = None
    """Base of the links that the API hands out; unset: the address of the request."""

    allow_local_registry: bool = False
    """Whether ``CONFIGS_REPO`` may be a ``file://`` address."""

    allow_local_packages: bool = False
    """Whether a spec's ``package`` may be a local path or ``git+file://``."""

    input_directories: Annotated[tuple[Path, ...], NoDecode] = ()
    """Colon-separated local directories below which inputs may name files."""

    input_buckets: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated S3 buckets that inputs may name, beside the platform's own two."""

    allow_private_inputs: bool = False
    """Whether ``http(s)`` inputs may be on loopback, private and link-local addresses."""

    max_input_bytes: int = Field(default=20 * 1024**3, gt=0)
    """Largest size of all inputs of one run together, in bytes."""

    inputs_max_bytes: int = Field(default=50 * 10**9, ge=0)
    """Size of this machine's copies of inputs, in bytes; 0: no limit."""

    sandbox: Literal["auto", "require", "off"] = "auto"
    """Walls around model code: use what the machine offers, insist on all of it, or use none."""

    worker_slots: int = Field(default=1, ge=1)
    """Experiments that one worker process runs at the same time."""

    worker_timeout_seconds: Annotated[float, _between(1, 86_400)] = 20.0
    """Seconds without a heartbeat after which a worker is taken for dead."""

    stop_grace_seconds: Annotated[float, _between(0, 86_400)] = 10.0
    """Seconds that a worker which is asked to stop gives its runs to finish, before it hands the
    rest back."""

    run_timeout_seconds: Annotated[float, _between(1, _YEAR_SECONDS)] = 86_400.0
    """Wall-clock limit of one run, in seconds."""

    run_memory_bytes: int = Field(default=0, ge=0)
    """Memory of one run, all its processes together, in bytes; 0: no limit."""

    run_cpu_seconds: Annotated[float, _between(0, _YEAR_SECONDS)] = 0.0
    """Processor time of one run, all its processes together, in seconds; 0: no limit."""

    run_processes: int = Field(default=512, ge=0)
    """Processes that one run may have at the same time; 0: no limit."""

    run_disk_bytes: int = Field(default=200 * 10**9, ge=0)
    """What one run may write, its temporary files included, in bytes; 0: no limit."""

    run_log_bytes: int = Field(default=10_000_000, gt=0)
    """What is kept of one run's log, in bytes; 20,000 lines at most."""

    run_log_lines_per_second: Annotated[float, _between(1, 1_000_000)] = 1_000.0
    """Lines a second that a model may print in the long run; more are left out and counted."""

    output_max_files: int = Field(default=10_000, ge=1)
    """Files and directories that one run may leave as its result."""

    output_max_bytes: int = Field(default=100 * 10**9, ge=0)
    """Size of what one run may leave as its result, in bytes; 0: no limit."""

    publish_patience_seconds: Annotated[float, _between(0, 86_400)] = 600.0
    """Seconds for which a worker keeps a result that the database does not take, and tries on."""

    cancel_grace_seconds: Annotated[float, _between(0, 3_600)] = 5.0
    """Seconds between asking a run's processes to end (TERM) and ending them (KILL)."""

    build_timeout_seconds: Annotated[float, _between(1, 86_400)] = 1_800.0
    """Wall-clock limit of each step of resolving or building an environment, in seconds."""

    build_memory_bytes: int = Field(default=16 * 1024**3, ge=0)
    """Address-space limit of each process of a build, in bytes; 0: none."""

    build_disk_bytes: int = Field(default=20 * 10**9, ge=0)
    """What a build may write, in bytes; 0: no limit."""

    parallel_builds: int = Field(default=2, ge=1)
    """Packages that are resolved or built at the same time on one machine, by all its workers."""

    environments_max_bytes: int = Field(default=50 * 10**9, ge=0)
    """Size of this machine's environments and their package cache, in bytes; 0: no limit."""

    package_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated hosts on private networks that builds may connect to (``*.example.org``,
    ``index.example.org:8080``); the indexes in uv's own variables are among them without being
    named."""

    package_sources: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated sources that packages may come from: ``index``, ``git+https://host/group/``,
    ``git+ssh://git@host/group/``, ``https://host/path/``; unset: all."""

    package_ssh_key: Path | None = None
    """Private key for packages by ``git+ssh``; unset: the keys of the agent. Git alone gets it."""

    package_known_hosts: Path | None = None
    """Keys of the ssh hosts that packages may come from; unset: the user's own file."""

    fork_servers: int = Field(default=4, ge=0)
    """Environments that one worker keeps preloaded; 0: every run starts a fresh interpreter."""

    max_upload_bytes: int = Field(default=10 * 1024**3, gt=0)
    """Largest file that an upload may bring, in bytes."""

    max_request_bytes: int = Field(default=2 * 1024**2, gt=0)
    """Largest body of a request that is no upload, in bytes."""

    event_streams_per_key: int = Field(default=100, ge=1)
    """Experiments that one key may follow at the same time (`GET /job/{id}/events`) through one
    process of the api."""

    log_format: Literal["text", "json"] = "text"
    """Form of the log lines of the three roles."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe log line that is written."""

    @field_validator("api_keys", "input_buckets", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        return _split(value, ",") if isinstance(value, str) else value

    @field_validator("package_hosts", "package_sources", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return _split(value, ",") if isinstance(value, str) else value

    @field_validator("input_directories", mode="before")
    @classmethod
    def _split_directories(cls, value: object) -> object:
        return _split(value, os.pathsep) if isinstance(value, str) else value

    @field_validator("home", mode="after")
    @classmethod
    def _absolute_home(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def objects_directory(self) -> Path:
        """Where the object store lies unless ``storage_url`` names another."""
        return self.home / "objects"

    @property
    def mirror_directory(self) -> Path:
        """The bare git mirror of the registry."""
        return self.home / "registry.git"

    @property
    def packages_directory(self) -> Path:
        """Environments and the package cache, on one file system so that files are linked."""
        return self.home / "packages"

    @property
    def runs_directory(self) -> Path:
        """Scratch space of the runs in progress."""
        return self.home / "runs"

    @property
    def input_cache_directory(self) -> Path:
        """Content-addressed copies of the inputs that this machine's runs have read."""
        return self.home / "inputs"

    @property
    def key_file(self) -> Path:
        """Where the generated API key is kept (mode 0600)."""
        return self.home / "api-key"


def _split(text: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings from the environment.

    Parameters
    ----------
    environ : mapping of str to str, optional
        The variables to check for unknown names; the process's own by default.
    **overrides
        Fields given on the command line; ``None`` means "not given".

    Raises
    ------
    SettingsError
        An unknown ``PLATFORM_`` variable, or a value that does not fit; names the variable.
    """
    variables = os.environ if environ is None else environ
    known = {
        PREFIX + name.upper()
        for name, field in Settings.model_fields.items()
        if field.validation_alias is None
    }
    unknown = sorted(name for name in variables if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingsError(
            f"Unknown setting {', '.join(unknown)}; see docs/reference/settings.md."
        )
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_input=False)
        )
        raise SettingsError(f"A setting does not fit: {faults}") from error
