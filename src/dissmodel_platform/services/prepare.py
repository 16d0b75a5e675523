"""Make a model runnable on this machine: find or make its lock, find or build its environment."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments import records
from dissmodel_platform.environments.commands import Bounds
from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.lock_changes import changes_between
from dissmodel_platform.environments.packages import PackageRequest, request_for
from dissmodel_platform.environments.policy import EVERYTHING, PackagePolicy
from dissmodel_platform.environments.store import Acquired, Environment, EnvironmentStore
from dissmodel_platform.environments.uv import index_hosts
from dissmodel_platform.environments.workshop import SshAccess, Workshop
from dissmodel_platform.errors import (
    BuildFailed,
    BuildInterrupted,
    DatabaseError,
    EnvironmentBuildError,
    ObjectNotFound,
    StorageError,
)
from dissmodel_platform.execution.paths import HARNESS
from dissmodel_platform.registry.spec import ModelSpec
from dissmodel_platform.sandbox.proxy import Destinations
from dissmodel_platform.sandbox.walls import inspect_walls
from dissmodel_platform.services.package_policy import package_policy
from dissmodel_platform.services.tally import BUILD_SECONDS, Tally
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.objects import ObjectStore

P = ParamSpec("P")
T = TypeVar("T")

_MOST_THREADS = 64  # most of them wait for a place to build


def open_environments(settings: Settings, directory: Path) -> EnvironmentStore:
    """Open this machine's environments with the operator's walls, limits and hosts.

    Parameters
    ----------
    settings : Settings
        Limits and policy.
    directory : Path
        Where the environments are.
    """
    workshop = Workshop(
        inspect_walls(settings.sandbox),
        Bounds(
            settings.build_timeout_seconds,
            settings.build_memory_bytes,
            settings.build_disk_bytes,
        ),
        _destinations(settings),
        SshAccess(settings.package_ssh_key, settings.package_known_hosts),
    )
    return EnvironmentStore(directory, HARNESS, workshop, settings.parallel_builds)


def _destinations(settings: Settings) -> Destinations:
    """Return where builds may connect to; with a list of sources, to its hosts alone."""
    policy = package_policy(settings)
    hosts = (*policy.hosts, *settings.package_hosts, *index_hosts(os.environ))
    return Destinations(hosts=hosts, any_public=not policy.is_limited)


@dataclass(frozen=True)
class Prepared:
    """A model that can be run here.

    Attributes
    ----------
    environment : Environment
        Where it is installed.
    lock : Lock
        What is installed.
    request : PackageRequest
        What was asked for.
    """

    environment: Environment
    lock: Lock
    request: PackageRequest

    def provenance(self) -> dict[str, object]:
        """Return what a record says of the environment."""
        own = self.lock.model_package(self.request)
        library = self.lock.find("dissmodel")
        return {
            "environment_key": self.environment.key,
            "lock_sha256": self.lock.sha256,
            "package_version": own.version if own and own.version else None,
            "package_commit": own.commit if own and own.commit else None,
            "code_version": library.version if library else "",
            "reproducible": not self.request.editable,
        }


class Preparer:
    """Prepares models on one machine.

    Parameters
    ----------
    database : Database
        Where locks are kept.
    store : EnvironmentStore
        This machine's environments.
    objects : ObjectStore
        Where the wheels are kept that were built for locks.
    allow_local : bool
        Whether packages may be local.
    when_built : callable, optional
        Is told that an environment was built.
    policy : PackagePolicy
        Which sources packages may come from.
    tally : Tally, optional
        Counts the builds.
    """

    def __init__(
        self,
        database: Database,
        store: EnvironmentStore,
        objects: ObjectStore,
        *,
        allow_local: bool,
        when_built: Callable[[], None] = lambda: None,
        policy: PackagePolicy = EVERYTHING,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally or Tally()
        self._policy = policy
        self._database = database
        self._store = store
        self._objects = objects
        self._allow_local = allow_local
        self._when_built = when_built
        # not the loop's threads, which runs need: a build may take one for an hour
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "build")

    @property
    def environments(self) -> EnvironmentStore:
        """The environments of this machine."""
        return self._store

    async def prepare(self, spec: ModelSpec, lock_sha256: str | None = None) -> Prepared:
        """Return the environment of a model's version, building it if need be.

        Parameters
        ----------
        spec : ModelSpec
            The version.
        lock_sha256 : str, optional
            A lock to use instead of the version's own.

        Raises
        ------
        EnvironmentBuildError
            One of its kinds; the reason is kept for the model listing.
        StorageError
            The object store does not take or give a wheel that was built; this is kept as well.
        """
        request = request_for(spec.package, spec.dissmodel, allow_local=self._allow_local)
        if lock_sha256 is not None:
            self._policy.check(request.package)
            lock = await records.load_lock(self._database, lock_sha256)
            self._policy.check_lock(lock, request.label)
            acquired = await asyncio.to_thread(self._store.find, lock, request)
            if acquired is None:
                await self._fetch_wheels(lock, request)
                acquired = await self._acquire(lock, request)
            return Prepared(acquired.environment, lock, request)
        row = await records.find_or_create(self._database, spec.name, request)
        try:
            with _disk_faults_told(request):
                return await self._prepare(row, request)
        except (BuildInterrupted, asyncio.CancelledError):
            await asyncio.shield(self._leave(row))
            raise
        except (EnvironmentBuildError, StorageError) as error:
            await records.mark_failed(self._database, row, error)
            raise

    async def relock(self, spec: ModelSpec) -> tuple[Lock | None, Lock]:
        """Make a new lock of a model's version; it counts once its environment works here.

        Experiments keep the lock that they used. One that holds the same packages changes nothing,
        unless the object store has lost a wheel that was built for the old one.

        Returns
        -------
        tuple of Lock or None, Lock
            The lock that counted, and the one that counts now.

        Raises
        ------
        EnvironmentBuildError
            There is no new lock, or what it lists does not work; the old one stays.
        """
        request = request_for(spec.package, spec.dissmodel, allow_local=self._allow_local)
        row = await records.find_or_create(self._database, spec.name, request)
        old = row.lock
        if old is None:
            return None, (await self.prepare(spec)).lock
        with _disk_faults_told(request):
            made = await self._make_lock(request)
            if changes_between(old, made).is_empty and await self._keeps_wheels(old):
                return old, old
            acquired = await self._acquire(made, request)
        kept = await records.keep_lock(self._database, row, made, request)
        if kept == made:
            seconds = acquired.seconds if acquired.built else None
            await records.mark_ready(self._database, row, acquired.environment.key, seconds)
        return old, kept

    def forget(self, environment: Environment) -> None:
        """Look at all files of an environment when it is wanted next: a run of it failed."""
        self._store.forget(environment)

    def interrupt(self) -> None:
        """End the builds that run now and refuse new ones; for shutting down."""
        self._store.interrupt()

    async def _prepare(self, row: records.EnvironmentRow, request: PackageRequest) -> Prepared:
        self._policy.check(request.package)
        lock = row.lock
        if lock is not None:
            self._policy.check_lock(lock, request.label)
        else:
            await records.mark_building(self._database, row)
            made = await self._make_lock(request)
            lock = await records.keep_lock(self._database, row, made, request)
        acquired = await asyncio.to_thread(self._store.find, lock, request)
        if acquired is None:
            await records.mark_building(self._database, row)
            await self._fetch_wheels(lock, request)
            acquired = await self._acquire(lock, request)
        await records.mark_ready(
            self._database,
            row,
            acquired.environment.key,
            acquired.seconds if acquired.built else None,
        )
        return Prepared(acquired.environment, lock, request)

    async def _leave(self, row: records.EnvironmentRow) -> None:
        """Say that nobody is at work any more for whoever was cancelled or is being stopped."""
        with suppress(DatabaseError):  # the next one to prepare it says how it stands
            await records.mark_left(self._database, row)

    async def _acquire(self, lock: Lock, request: PackageRequest) -> Acquired:
        with self._failures_counted():
            acquired = await self._in_thread(self._store.acquire, lock, request)
        if acquired.built:
            self._tally.observe(BUILD_SECONDS, "built", acquired.seconds)
            self._when_built()
        return acquired

    async def _make_lock(self, request: PackageRequest) -> Lock:
        """Resolve and build; after this, the wheels that were built are in the object store."""
        self._policy.check(request.package)
        with self._failures_counted():
            made = await self._in_thread(
                self._store.lock,
                request,
                lambda lock: self._policy.check_lock(lock, request.label),
            )
        for wheel in made.built:
            await self._objects.put_file(self._store.built_wheel(wheel))
        return made

    @contextmanager
    def _failures_counted(self) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        except BuildInterrupted:
            raise
        except EnvironmentBuildError:
            self._tally.observe(BUILD_SECONDS, "failed", time.monotonic() - begin)
            raise

    async def _in_thread(self, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make something in a thread of its own: it goes on when its caller is cancelled."""
        work = functools.partial(make, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _keeps_wheels(self, lock: Lock) -> bool:
        """Say whether the object store has all wheels that were built for a lock."""
        return all([await self._objects.exists(wheel.sha256) for wheel in lock.built])

    async def _fetch_wheels(self, lock: Lock, request: PackageRequest) -> None:
        """Bring the wheels here that another worker built for a lock; damaged ones too."""
        for wheel in lock.built:
            if await asyncio.to_thread(self._store.has_wheel, wheel):
                continue
            place = self._store.built_wheel(wheel)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:  # what is there is replaced: another worker may have brought it by now
                await self._objects.fetch(wheel.sha256, place)
            except ObjectNotFound as error:
                raise BuildFailed(
                    f"Package {request.label!r} cannot be installed: the wheel of {wheel.name}, "
                    "which its lock names, is gone from the object store; restore it from a "
                    "backup, or make a new lock with `dissmodel-platform models relock`."
                ) from error


@contextmanager
def _disk_faults_told(request: PackageRequest) -> Iterator[None]:
    """Turn what the worker's disk refuses into a fault of the build."""
    try:
        yield
    except OSError as error:
        raise BuildFailed(
            f"Package {request.label!r} cannot be installed: the worker's disk refused "
            f"({error}); free space or mend the directory, then submit again."
        ) from error
