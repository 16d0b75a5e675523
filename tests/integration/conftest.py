"""PostgreSQL and its databases, an S3 server, model packages in git, and their environments."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.environments.workshop import Workshop
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.sandbox.walls import inspect_walls
from tests.processes import wait_until

PACKAGES = Path(__file__).parent.parent / "packages"
EXAMPLES = PACKAGES.parent.parent / "examples"
_AUTHOR = ("-c", "user.name=A modeller", "-c", "user.email=modeller@example.org")


class PackageRepositories:
    """The packages of ``tests/packages`` and of the examples, each in a git repository."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def repository(self, name: str) -> Path:
        """Return the repository of a package, with the tag v0.1.0."""
        repository = self._directory / name
        if not repository.exists():
            source = PACKAGES / name if (PACKAGES / name).exists() else EXAMPLES / name
            shutil.copytree(source, repository, ignore=shutil.ignore_patterns("__pycache__"))
            project = repository / "pyproject.toml"
            if project.exists() and '"plain_backend"' in project.read_text():
                shutil.copy(PACKAGES / "plain_backend.py", repository)
            self.git(repository, "init", "--quiet", "--initial-branch=main")
            self.commit(repository, "v0.1.0")
        return repository

    def commit(self, repository: Path, tag: str) -> str:
        """Commit what is there and tag it; returns the commit's id."""
        self.git(repository, "add", "--all")
        self.git(repository, *_AUTHOR, "commit", "--quiet", "--message=A version")
        self.git(repository, "tag", "--force", tag)
        return self.git(repository, "rev-parse", "HEAD")

    def requirement(self, name: str, ref: str = "v0.1.0") -> str:
        """Return what a spec's ``package`` says for a package."""
        return f"git+{self.repository(name).as_uri()}@{ref}"

    def git(self, repository: Path, *arguments: str) -> str:
        command = ["git", "-C", str(repository), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Make an empty database and drop it at the end."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield make_conninfo(postgres.url, dbname=name)
    wait_until(lambda: _drop_database(postgres.url, name), "the database is dropped")


def _drop_database(url: str, name: str) -> bool:
    """Drop a database, unless the server's own tidying (autovacuum) is at work in it just now."""
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )
        except psycopg.errors.InsufficientPrivilege:
            return False
    return True


@pytest.fixture
async def database(database_url: str, anyio_backend: str) -> AsyncIterator[Database]:
    """Open a migrated database."""
    opened = Database(database_url)
    await opened.open()
    await migrate(opened)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> PackageRepositories:
    """Make git repositories of the packages of ``tests/packages`` when they are asked for."""
    return PackageRepositories(tmp_path_factory.mktemp("repositories"))


@pytest.fixture(scope="session")
def packages_directory() -> Iterator[Path]:
    """Make a directory for environments and the package cache, which all tests share.

    It holds over a gigabyte, so it does not stay after the session as pytest's own would.
    """
    with tempfile.TemporaryDirectory(prefix="packages-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def environments(packages_directory: Path) -> EnvironmentStore:
    """Open the environments that all tests share."""
    return EnvironmentStore(packages_directory, HARNESS, Workshop(inspect_walls(), Bounds(600)))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 server that lives as long as the test session."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a new bucket over plain HTTP, with the variables that make it reachable."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"{s3_endpoint}/platform-{uuid4().hex}"
    httpx.put(bucket, trust_env=False).raise_for_status()
    return bucket
