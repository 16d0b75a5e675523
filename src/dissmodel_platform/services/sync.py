"""Sync the registry: fetch, compare, parse what changed, publish in one transaction."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import replace

from procrastinate import App

from dissmodel_platform.database.pool import Connection, Database, Listener
from dissmodel_platform.environments.policy import EVERYTHING, PackagePolicy
from dissmodel_platform.errors import (
    DatabaseError,
    GitError,
    RegistryError,
    RevisionNotFound,
    SyncTimeout,
)
from dissmodel_platform.experiments.queue import enqueue_builds
from dissmodel_platform.registry.catalog import MAX_BYTES as MAX_CATALOG_BYTES
from dissmodel_platform.registry.git_faults import GitFailed, GitFault
from dissmodel_platform.registry.holds import (
    OnRewrite,
    hold,
    is_accepted,
    may_withdraw_many,
    reason_to_hold,
    release_holds,
)
from dissmodel_platform.registry.index import (
    Publication,
    latest_publication,
    model_names,
    published_revisions,
)
from dissmodel_platform.registry.mirror import Mirror, MirrorState
from dissmodel_platform.registry.mirror_reader import Relation
from dissmodel_platform.registry.problem_rows import count_problems
from dissmodel_platform.registry.published_catalog import publish_catalog
from dissmodel_platform.registry.publishing import (
    Diff,
    begin_publication,
    publish_models,
    restore_broken,
    withdraw_absent,
)
from dissmodel_platform.registry.reader import reader_version
from dissmodel_platform.registry.signatures import SignaturePolicy
from dissmodel_platform.registry.snapshot import (
    SnapshotChange,
    in_batches,
    read_models,
    read_snapshot,
)
from dissmodel_platform.registry.sync_runs import (
    CHANNEL,
    SYNC_LOCK,
    Overtaken,
    SyncRun,
    answer_to,
    begin_run,
    finish_run,
    forget_old_runs,
    hand_back,
    request_sync,
    waiting_requests,
)
from dissmodel_platform.services.package_policy import judge, package_policy
from dissmodel_platform.services.sync_settings import signature_policy
from dissmodel_platform.services.trust import Trust
from dissmodel_platform.settings import Settings
from dissmodel_platform.storable import printable_text
from dissmodel_platform.types import Revision

log = logging.getLogger(__name__)

ANSWER_SECONDS = 120.0
"""How long a caller waits for the sync process."""

_ATTEMPTS = 3
_POLL_SECONDS = 0.05
_LOOK_AGAIN_SECONDS = 1.0
_FIRST_RETRY_SECONDS = 5.0
_JITTER = 0.1


async def ask_for_sync(
    database: Database, trigger: str, *, timeout_seconds: float = ANSWER_SECONDS
) -> SyncRun:
    """Ask the sync process for a run and wait for it.

    Raises
    ------
    GitError
        git failed; carries what it said.
    RegistryError
        What it fetched cannot be published.
    SyncTimeout
        The sync process did not answer.
    """
    request = await request_sync(database, trigger)
    deadline = time.monotonic() + timeout_seconds
    while (run := await answer_to(database, request)) is None:
        if time.monotonic() > deadline:
            raise SyncTimeout(
                f"The sync process did not answer within {timeout_seconds:g} s; is "
                f"`dissmodel-platform registry sync --watch` running?"
            )
        await asyncio.sleep(_POLL_SECONDS)
    if run.error is not None and run.git_output:
        raise GitError(run.message, stderr_tail=run.git_output)
    if run.error is not None:
        raise RegistryError(run.message)
    return run


def check_accepted(run: SyncRun, revision: Revision) -> None:
    """Refuse to let an accepted commit pass for published where the branch has moved on.

    Parameters
    ----------
    run : SyncRun
        The run that followed the acceptance.
    revision : Revision
        The commit that was accepted.

    Raises
    ------
    RevisionNotFound
        The run found another commit at the branch's head.
    """
    if run.error is None and run.new_commit != revision:
        raise RevisionNotFound(
            f"Commit {revision} is no longer the head of the branch, so accepting it published "
            f"nothing. {run.message}"
        )


def open_sync(database: Database, queue: App, mirror: Mirror, settings: Settings) -> RegistrySync:
    """Return the sync that the settings ask for.

    Raises
    ------
    SettingsError
        Settings contradict each other.
    """
    return RegistrySync(
        database,
        queue,
        mirror,
        on_rewrite=settings.registry_on_rewrite,
        signatures=signature_policy(settings),
        history_days=settings.registry_history_days,
        policy=package_policy(settings),
    )


class RegistrySync:
    """The one writer of the mirror and of the published registry.

    Parameters
    ----------
    database, queue : Database, App
        Opened by the caller.
    mirror : Mirror
        Of the registry's repository.
    on_rewrite : {"accept", "hold"}
        What to do when the branch's history was rewritten.
    signatures : SignaturePolicy, optional
        Whose signature a commit needs.
    history_days : float
        How long ended runs are kept.
    policy : PackagePolicy
        Which sources packages may come from.
    """

    def __init__(
        self,
        database: Database,
        queue: App,
        mirror: Mirror,
        *,
        on_rewrite: OnRewrite = "accept",
        signatures: SignaturePolicy | None = None,
        history_days: float = 90.0,
        policy: PackagePolicy = EVERYTHING,
    ) -> None:
        self._policy = policy
        self._database = database
        self._queue = queue
        self._mirror = mirror
        self._on_rewrite: OnRewrite = on_rewrite
        self._trust = Trust(mirror, signatures)
        self._history_days = history_days

    async def run(self, trigger: str) -> SyncRun:
        """Look at the remote once and publish what is new.

        After this, every request that was made before it began has its answer. A failure is in
        the run's ``error``; the published commit then stands as it was. A run that another sync
        came in between of (one that has lost its lock) publishes nothing and is done again.
        """
        for _ in range(_ATTEMPTS):
            async with self._database.exclusive(SYNC_LOCK):
                run, is_overtaken = await self._run(trigger)
            if not is_overtaken:
                break
        return run

    async def answer_requests(self) -> SyncRun | None:
        """Sync as :meth:`run` does, unless another process has answered everybody meanwhile."""
        async with self._database.exclusive(SYNC_LOCK):
            if await waiting_requests(self._database) == "none":
                return None
            run, is_overtaken = await self._run("request")
        return await self.run("request") if is_overtaken else run

    async def watch(self, stop: asyncio.Event, interval_seconds: float) -> None:
        """Sync at once, then at the interval and whenever somebody asks, until ``stop`` is set."""
        failures = 0
        trigger: str | None = "start"
        async with self._database.listen(CHANNEL) as listener:
            while trigger is not None:
                is_asked = trigger == "request"
                run = await (self.answer_requests() if is_asked else self.run(trigger))
                await forget_old_runs(self._database, keep_days=self._history_days)
                if run is not None:
                    failures = failures + 1 if run.error else 0
                pause = _pause_seconds(interval_seconds, failures)
                trigger = await self._next_trigger(listener, stop, pause)

    async def _next_trigger(
        self, listener: Listener, stop: asyncio.Event, pause_seconds: float
    ) -> str | None:
        """Wait for a reason to look again; ``None`` once ``stop`` is set."""
        stopping = asyncio.create_task(stop.wait())
        deadline = time.monotonic() + pause_seconds
        try:
            while not stop.is_set():
                # a notification may be of a request that the last run has answered already
                asked = await waiting_requests(self._database)
                if asked == "open":
                    return "request"
                pause = deadline - time.monotonic()
                if pause <= 0:
                    return "interval"
                if asked == "taken":  # by another process, which may die before it answers
                    pause = min(pause, _LOOK_AGAIN_SECONDS)
                waiting = asyncio.create_task(listener.wait(pause))
                await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=stopping.done())
            return None
        finally:
            stopping.cancel()

    async def _run(self, trigger: str) -> tuple[SyncRun, bool]:
        """Sync once; the caller holds the lock. The second value: another sync came between."""
        run_id = await begin_run(self._database, trigger)
        published = await latest_publication(self._database)
        run = SyncRun(run_id, trigger, published.revision if published else None, None)
        try:
            revisions = await published_revisions(self._database)
            state = await asyncio.to_thread(self._mirror.update, revisions)
            run = _with_state(run, state)
            try:
                run = await self._take_over(run, state, published)
            except GitFailed as error:
                if error.fault is not GitFault.CORRUPT:
                    raise
                log.warning("the mirror is damaged and is cloned anew: %s", error)
                state = await asyncio.to_thread(self._mirror.rebuild, revisions)
                run = _with_state(run, state)
                run = await self._take_over(run, state, published)
        except Overtaken as error:
            run = _failed(run, str(error))
            await hand_back(self._database, run)
            log.warning("%s", run.error)
            return run, True
        except (RegistryError, OSError) as error:
            run = _failed(run, str(error), getattr(error, "stderr_tail", ""))
        except DatabaseError:
            raise
        except Exception as error:
            log.exception("sync")
            run = _failed(run, f"{type(error).__name__}: {error}")
        else:
            if run.outcome == "published":
                await self._tidy()
            return run, False
        log.warning("sync failed: %s", run.error)
        try:
            async with self._database.transaction() as connection:
                await finish_run(connection, run)
        except Overtaken:  # and another sync has begun
            return run, True
        return run, False

    async def _tidy(self) -> None:
        """Tidy the mirror; what was published stands whatever becomes of it."""
        try:
            await asyncio.to_thread(self._mirror.maintain)
        except (RegistryError, OSError) as error:
            log.warning("the mirror could not be tidied: %s", error)
        except Exception:
            log.exception("tidying the mirror")

    async def _take_over(
        self, run: SyncRun, state: MirrorState, published: Publication | None
    ) -> SyncRun:
        """Publish what the mirror holds, unless that is published as it would be read now."""
        await self._trust.check(state.revision, published.revision if published else None)
        is_published = published is not None and published.revision == state.revision
        if is_published and not _must_read_all(published):
            async with self._database.transaction() as connection:
                await release_holds(connection)
                run = replace(run, problems=await count_problems(connection))
                await finish_run(connection, run)
            return run
        return await self._publish(run, state, published)

    async def _publish(
        self, run: SyncRun, state: MirrorState, published: Publication | None
    ) -> SyncRun:
        base = published.revision if published and not _must_read_all(published) else None
        change = await asyncio.to_thread(read_snapshot, self._mirror, state.revision, base)
        reason = await self._reason_to_hold(change, published)
        if published is not None and reason is not None:
            return await self._hold(run, state.revision, published.revision, reason)
        await asyncio.to_thread(self._mirror.keep, state.revision)
        catalog = await self._changed_catalog(change, published)
        diff = Diff()
        async with self._database.transaction() as connection:
            publication = await begin_publication(
                connection,
                change,
                after=published.seq if published else None,
                reads_catalog=change.catalog is None or catalog is not None,
            )
            await self._publish_models(connection, publication, change, diff)
            await publish_catalog(connection, publication, change, catalog)
            await withdraw_absent(connection, publication, change, diff)
            await restore_broken(connection, publication, change, diff)
            await release_holds(connection)
            if diff.added or diff.changed:
                await enqueue_builds(self._queue, connection, publication)
            run = replace(
                run,
                outcome="published",
                problems=await count_problems(connection),
                **vars(diff),
            )
            await finish_run(connection, run)
        log.info("%s", run.message)
        return run

    async def _reason_to_hold(
        self, change: SnapshotChange, published: Publication | None
    ) -> str | None:
        """Say why a commit has to wait; looks at the whole registry only where it may matter."""
        if published is None or published.revision == change.revision:
            return None
        if await is_accepted(self._database, change.revision, published.revision):
            return None
        relation = None
        if self._on_rewrite == "hold":
            relation = await asyncio.to_thread(self._relation, published.revision, change.revision)
        served: frozenset[str] = frozenset()
        if may_withdraw_many(change):
            served = frozenset(await model_names(self._database, published))
        return reason_to_hold(change, served, relation, self._on_rewrite)

    def _relation(self, old: Revision, new: Revision) -> Relation:
        """Compare two commits; one that a rebuilt mirror could not bring back was rewritten."""
        if not self._mirror.has_commit(old):
            return Relation.REWRITE
        return self._mirror.relation(old, new)

    async def _hold(self, run: SyncRun, revision: Revision, base: Revision, reason: str) -> SyncRun:
        """Keep serving the published commit; the other one waits for as long as it is the head."""
        distrust = await self._trust.distrust_of(base)
        async with self._database.transaction() as connection:
            await hold(connection, revision, base, reason)
            run = replace(
                run,
                outcome="held",
                hold=reason,
                error=distrust,
                problems=await count_problems(connection),
            )
            await finish_run(connection, run)
        log.warning("%s", run.message)
        return run

    async def _changed_catalog(
        self, change: SnapshotChange, published: Publication | None
    ) -> bytes | None:
        """Read the catalogue, unless the published commit has the same; too large is no content."""
        file = change.catalog
        if file is None:
            return None
        is_read = published is not None and published.catalog_oid == file.oid
        if is_read and not _must_read_all(published):
            return None
        blobs = await asyncio.to_thread(
            lambda: list(self._mirror.read_blobs([file.oid], max_bytes=MAX_CATALOG_BYTES + 1))
        )
        content = blobs[0].data
        return b"#" * (MAX_CATALOG_BYTES + 1) if content is None else content

    async def _publish_models(
        self, connection: Connection, publication: int, change: SnapshotChange, diff: Diff
    ) -> None:
        """Read the changed files in batches, so that memory stays flat however many there are."""
        readings = (judge(found, self._policy) for found in read_models(self._mirror, change))
        batches = in_batches(readings)
        while batch := await asyncio.to_thread(next, batches, None):
            await publish_models(connection, publication, batch, diff)


def _must_read_all(published: Publication | None) -> bool:
    """Say whether files that have not changed may be read otherwise than they were."""
    return published is None or published.reader != reader_version()


def _with_state(run: SyncRun, state: MirrorState) -> SyncRun:
    return replace(run, git_output=state.git_output, new_commit=state.revision)


def _failed(run: SyncRun, message: str, git_output: str = "") -> SyncRun:
    """Return the run as it failed, in words that can be stored and shown."""
    return replace(
        run,
        outcome="failed",
        error=printable_text(message),
        git_output=printable_text(git_output),
    )


def _pause_seconds(interval_seconds: float, failures: int) -> float:
    """Return how long to wait for the next look; failures are retried sooner, ever less often."""
    pause = interval_seconds
    if failures:
        pause = min(interval_seconds, _FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 20))
    return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads the load only
