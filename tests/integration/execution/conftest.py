"""A worker's runner in this process: real database, environments, fork servers and store."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.execution.headers.reader import HeaderReader
from dissmodel_platform.execution.input_cache import InputCache
from dissmodel_platform.execution.input_rules import InputRules
from dissmodel_platform.execution.launcher import Launcher
from dissmodel_platform.execution.staging import Stager
from dissmodel_platform.experiments.queries import get_experiment, list_artifacts
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.experiments.recovery import register_worker
from dissmodel_platform.processes import SUPERVISOR_VARIABLE
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.prepare import Preparer
from dissmodel_platform.services.reproduce import reproduce
from dissmodel_platform.services.run import Runner, RunnerParts
from dissmodel_platform.services.submit import RunRequest, Submitter
from dissmodel_platform.services.worker import Worker
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.index import index_upload
from dissmodel_platform.storage.objects import ObjectStore, open_object_store
from dissmodel_platform.storage.uris import input_uri
from dissmodel_platform.types import Sha256
from tests.processes import is_running

PATIENCE_SECONDS = 120.0  # the first test that runs anything builds its environment


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run these tests on one event loop, since the fork servers belong to it."""
    return "asyncio"


@dataclass(frozen=True)
class Line:
    """One line of an experiment's log."""

    attempt: int
    stream: str
    text: str


@dataclass(frozen=True)
class Lab:
    """Submits experiments of the package ``behaviours`` and runs them here."""

    parts: RunnerParts
    submitter: Submitter
    package: str

    @property
    def database(self) -> Database:
        return self.parts.database

    def allowing(self, **settings: Any) -> Lab:
        """Return a lab whose rules for inputs differ."""
        changed = self.parts.settings.model_copy(update=settings)
        stager = Stager(
            self.parts.store,
            InputCache(changed.input_cache_directory),
            InputRules.of(changed),
        )
        return replace(
            self,
            parts=replace(self.parts, stager=stager, settings=changed),
            submitter=Submitter(self.database, self.parts.queue, changed),
        )

    def runner(self, **settings: Any) -> Runner:
        """Return a runner whose settings differ."""
        changed = self.parts.settings.model_copy(update=settings)
        return Runner(replace(self.parts, settings=changed))

    def spec(self, class_name: str | None, **model: str) -> str:
        """Return the TOML text of a spec."""
        keys = {"package": self.package, **model}
        if class_name is not None:
            keys["class"] = class_name
        return "[model]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items() if value)

    async def submit(
        self,
        class_name: str | None,
        parameters: dict[str, Any] | None = None,
        *,
        input_dataset: str = "",
        input_sha256: str | None = None,
        **model: str,
    ) -> Experiment:
        """Submit a run; the keyword arguments are further keys of ``[model]``."""
        request = RunRequest(input_dataset, parameters=parameters or {}, input_sha256=input_sha256)
        return await self.submitter.submit_inline(
            self.spec(class_name, **model), request, submitted_by="a test"
        )

    async def run(
        self,
        class_name: str | None,
        parameters: dict[str, Any] | None = None,
        *,
        input_dataset: str = "",
        input_sha256: str | None = None,
        runner: Runner | None = None,
        **model: str,
    ) -> Experiment:
        """Submit a run, run it, and return how it ended."""
        experiment = await self.submit(
            class_name,
            parameters,
            input_dataset=input_dataset,
            input_sha256=input_sha256,
            **model,
        )
        await (runner or self.runner()).run(experiment.id)
        return await self.get(experiment)

    async def reproduce(self, experiment: Experiment) -> Experiment:
        """Reproduce an experiment and return how the reproduction ended."""
        again = await reproduce(self.database, self.submitter, experiment.id, submitted_by="a test")
        await self.runner().run(again.id)
        return await self.get(again)

    async def get(self, experiment: Experiment) -> Experiment:
        return await get_experiment(self.database, experiment.id)

    async def log(self, experiment: Experiment) -> list[Line]:
        rows = await self.database.fetch_all(
            "SELECT attempt, stream, line FROM experiment_logs"
            " WHERE experiment_id = %(id)s ORDER BY seq",
            id=experiment.id,
        )
        return [Line(row["attempt"], row["stream"], row["line"]) for row in rows]

    async def last_line(self, experiment: Experiment) -> str:
        return (await self.log(experiment))[-1].text

    async def wait_for_line(self, experiment: Experiment, start: str, attempt: int = 1) -> str:
        """Wait until the log has a line that starts so; returns the rest of it."""

        async def found() -> str | None:
            for line in await self.log(experiment):
                if line.attempt == attempt and line.text.startswith(start):
                    return line.text.removeprefix(start).strip() or "nothing"
            return None

        text: str = await self.until(found)
        return text

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for a condition, which may be asynchronous, and return what made it true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            value = condition()
            value = await value if isinstance(value, Awaitable) else value
            if value:
                return value
            assert time.monotonic() < deadline, "the condition did not come true"
            await asyncio.sleep(0.02)

    async def gone(self, *pids: int) -> None:
        """Wait until processes have ended."""
        await self.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    async def tell_to_end(self, experiment: Experiment, attempt: int = 1) -> None:
        """Tell a run that waits for it to end, once it is there."""
        runs = self.parts.settings.runs_directory

        def place() -> list[Path]:
            return list(runs.glob(f"*/{experiment.id}-{attempt}/tmp"))

        [temporary] = await self.until(place)
        (temporary / "end").touch()

    def processes(self, experiment: Experiment) -> list[int]:
        """Find the processes of an experiment's runs; a run knows them by other numbers."""
        return [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if _has_to_do_with(process, f"/{experiment.id}-")
        ]

    async def gone_or_zombie(self, pid: int) -> None:
        """Wait until a process has ended, whether or not its parent has taken notice."""
        await self.until(lambda: not is_running(pid))

    async def ended(self, experiment: Experiment) -> Experiment:
        """Wait until an experiment has ended, and return it."""

        async def is_final() -> Experiment | None:
            now = await self.get(experiment)
            return now if now.status.is_final else None

        final: Experiment = await self.until(is_final)
        return final

    async def files(self, experiment: Experiment) -> dict[str, bytes]:
        """Return the artifacts' bytes by name."""
        return {
            row["name"]: await self.bytes(row["sha256"])
            for row in await list_artifacts(self.database, experiment.id)
        }

    async def result(self, experiment: Experiment) -> str:
        """Return the text of the main artifact."""
        assert experiment.status == "completed", await self.log(experiment)
        return (await self.bytes(experiment.outcome["artifacts"]["output"])).decode()

    async def bytes(self, sha256: str) -> bytes:
        pieces = self.parts.store.stream(Sha256(sha256))
        return b"".join([piece async for piece in pieces])

    async def upload(self, content: str, name: str, *, label: str | None = None) -> str:
        """Upload a text and return its address."""
        path = self.parts.settings.home / name
        path.write_text(content)
        return await self.upload_file(path, label=label)

    async def upload_file(self, path: Path, *, label: str | None = None) -> str:
        """Upload a file and return its address."""
        stored = await self.parts.store.put_file(path)
        uri = input_uri(label or uuid4().hex, path.name)
        await index_upload(self.database, uri, stored, media_type="text/plain", label="test")
        return str(uri)


def _has_to_do_with(process: Path, directory: str) -> bool:
    """Say whether a process works in a directory, or has it as a mount of its own."""
    try:
        mounts = (process / "mountinfo").read_text()
        return directory in mounts or directory in str((process / "cwd").readlink())
    except OSError:  # it has ended
        return False


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files, without a word."""

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Website:
    """A directory that is served over HTTP on this machine."""

    url: str
    directory: Path


@pytest.fixture
def website(tmp_path: Path) -> Iterator[Website]:
    """Serve a new directory."""
    directory = tmp_path / "website"
    directory.mkdir()
    handler = partial(_Quiet, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Website(f"http://127.0.0.1:{server.server_port}", directory)
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def lab_home(tmp_path_factory: pytest.TempPathFactory, packages_directory: Path) -> Path:
    """Make a home whose packages are those that all tests share."""
    home = tmp_path_factory.mktemp("lab")
    (home / "packages").symlink_to(packages_directory)
    return home


@pytest.fixture(scope="session")
def lab_settings(lab_home: Path) -> Settings:
    return Settings(
        home=lab_home,
        allow_local_packages=True,
        input_directories=(lab_home / "shared",),
        cancel_grace_seconds=0.5,
        worker_timeout_seconds=2.0,
        stop_grace_seconds=0.0,
        build_timeout_seconds=600.0,
    )


@pytest.fixture(scope="session")
def lab_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    name = f"lab_{uuid4().hex}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield make_conninfo(postgres.url, dbname=name)


@pytest.fixture(scope="session")
async def lab_database(lab_database_url: str) -> AsyncIterator[Database]:
    database = Database(lab_database_url)
    await database.open()
    await migrate(database)
    yield database
    await database.close()


@pytest.fixture(scope="session")
def lab_store(lab_settings: Settings) -> ObjectStore:
    return open_object_store(None, lab_settings.objects_directory)


@pytest.fixture(scope="session")
async def launcher() -> AsyncIterator[Launcher]:
    launcher = Launcher(4, inspect_walls())
    yield launcher
    await launcher.close()


@pytest.fixture(scope="session")
async def headers(lab_settings: Settings) -> AsyncIterator[HeaderReader]:
    headers = HeaderReader(lab_settings.runs_directory)
    yield headers
    await headers.close()


@pytest.fixture(scope="session")
async def lab(
    lab_database: Database,
    lab_store: ObjectStore,
    lab_settings: Settings,
    launcher: Launcher,
    headers: HeaderReader,
    environments: EnvironmentStore,
    repositories: Any,
) -> Lab:
    """Open the lab that most tests share: each has its own experiments in it."""
    return await _open_lab(
        lab_database, lab_store, lab_settings, launcher, headers, environments, repositories
    )


OpenLab = Callable[[Database], Awaitable[Lab]]


@pytest.fixture
def open_lab(
    lab_store: ObjectStore,
    lab_settings: Settings,
    launcher: Launcher,
    headers: HeaderReader,
    environments: EnvironmentStore,
    repositories: Any,
) -> OpenLab:
    """Open labs on databases of a test's own."""

    async def open_lab(database: Database) -> Lab:
        return await _open_lab(
            database, lab_store, lab_settings, launcher, headers, environments, repositories
        )

    return open_lab


@pytest.fixture
async def empty_lab(database: Database, open_lab: OpenLab) -> Lab:
    """Open a lab with a database of its own, for tests whose workers take whatever is there."""
    return await open_lab(database)


Serve = Callable[..., AbstractAsyncContextManager[tuple[Worker, asyncio.Task[None]]]]


@pytest.fixture
def serve(database_url: str, lab_store: ObjectStore, lab_settings: Settings) -> Serve:
    """Let a worker with connections of its own serve while a block runs."""

    @asynccontextmanager
    async def serve(
        url: str = database_url, **settings: Any
    ) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
        changed = lab_settings.model_copy(update=settings)
        database = Database(url, transaction_seconds=changed.worker_timeout_seconds)
        database.pool.timeout = 1.0
        await database.open()
        worker = Worker(database, await open_queue(database), lab_store, changed)
        stop = asyncio.Event()
        task = asyncio.create_task(worker.serve(stop))
        try:
            yield worker, task
        finally:
            stop.set()
            try:
                await task
            finally:
                await database.close()

    return serve


@dataclass(frozen=True)
class WorkerProcess:
    """The role ``worker`` as a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def send(self, signum: int) -> None:
        self.process.send_signal(signum)


@pytest.fixture
def start_worker(
    database_url: str, lab_settings: Settings, tmp_path: Path
) -> Iterator[Callable[..., WorkerProcess]]:
    """Start real worker processes; whatever is left of them at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**variables: str) -> WorkerProcess:
        log = tmp_path / f"worker-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "dissmodel_platform", "worker"],
                env={
                    **os.environ,
                    "PLATFORM_HOME": str(lab_settings.home),
                    "PLATFORM_ALLOW_LOCAL_PACKAGES": "true",
                    "PLATFORM_WORKER_TIMEOUT_SECONDS": "2",
                    "PLATFORM_CANCEL_GRACE_SECONDS": "0.5",
                    "DATABASE_URL": database_url,
                    SUPERVISOR_VARIABLE: str(os.getpid()),  # it ends with a test that is killed
                    "TMPDIR": str(tmp_path),  # what a killed process leaves goes with the test
                    **variables,
                },
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started.append(process)
        return WorkerProcess(process, log)

    yield start
    for process in started:
        process.kill()
        process.wait()


async def _open_lab(
    database: Database,
    store: ObjectStore,
    settings: Settings,
    launcher: Launcher,
    headers: HeaderReader,
    environments: EnvironmentStore,
    repositories: Any,
) -> Lab:
    worker = uuid4()
    await register_worker(database, worker)
    queue = await open_queue(database)
    parts = RunnerParts(
        database=database,
        queue=queue,
        store=store,
        preparer=Preparer(database, environments, store, allow_local=True),
        stager=Stager(store, InputCache(settings.input_cache_directory), InputRules.of(settings)),
        launcher=launcher,
        headers=headers,
        settings=settings,
        worker=worker,
    )
    submitter = Submitter(database, queue, settings)
    return Lab(parts, submitter, repositories.requirement("behaviours"))
