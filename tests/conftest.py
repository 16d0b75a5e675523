"""What every test may use, and a guard that keeps tests out of the user's home."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dissmodel_platform.database.embedded import EmbeddedPostgres

PLATFORM_VARIABLES = (
    "PLATFORM_",
    "CONFIGS_",
    "DATABASE_URL",
    "STORAGE_URL",
    "API_KEYS",
    "DISSMODEL_",
)


SCRATCH = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Give the run, all its processes included, one temporary directory that ends with it.

    What a killed process leaves in it goes too. The processes of pytest-xdist inherit it, and
    so share what is under it.
    """
    if not hasattr(config, "workerinput"):
        config.stash[SCRATCH] = scratch = tempfile.mkdtemp(prefix="dmp-")
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        # short: the paths of sockets are limited to about a hundred characters
        config.option.basetemp = config.option.basetemp or Path(scratch, "t")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the run's temporary directory."""
    if SCRATCH in config.stash:
        shutil.rmtree(config.stash[SCRATCH], ignore_errors=True)


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, as the roles do."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the whole session an empty home and none of the operator's settings."""
    empty = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(PLATFORM_VARIABLES)]:
            patch.delenv(name)
        patch.setenv("HOME", str(empty))
        for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            patch.delenv(name, raising=False)
        yield empty


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Run one real PostgreSQL for the whole session."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("pg") / "pg") as server:
        yield server
