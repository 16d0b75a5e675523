"""``python -m benchmarks.chaos``: many experiments while workers, runs and sessions are killed.

Starts an embedded PostgreSQL and real worker processes, submits experiments that end in every way
a model can, and meanwhile kills workers, fork servers and runs, stops workers for a while and
terminates sessions of the database. Then each experiment must be in exactly one final state, with
exactly one set of artifacts where it was completed, and no process may be left. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dissmodel_platform.database.embedded import EmbeddedPostgres
from dissmodel_platform.database.migrate import migrate
from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import DatabaseError
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.processes import SUPERVISOR_VARIABLE
from dissmodel_platform.services.submit import RunRequest, Submitter
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.objects import ObjectStore, open_object_store
from dissmodel_platform.types import Sha256

_BEHAVIOURS = Path(__file__).parent.parent / "tests" / "packages"
_WORKER_TIMEOUT_SECONDS = 6.0
_CALM_SHARE = 0.05  # when so few are left, nothing is broken any more: the rest must end by itself
_LOOK_SECONDS = 0.5
_LAYERS = 3  # bubblewrap's two processes, and the one that made the server's own namespaces
_LEFT_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """What to do.

    Parameters
    ----------
    experiments : int
        How many to submit.
    seed : int
        Of what is submitted and what is broken, and when.
    workers : int
        Worker processes.
    limit_seconds : float
        Within which all must have ended.
    packages : Path or None
        Environments to use instead of new ones.
    pause_seconds : float
        Between two things that are broken, on average.
    """

    experiments: int = 300
    seed: int = 1
    workers: int = 3
    limit_seconds: float = 1_500.0
    packages: Path | None = None
    pause_seconds: float = 1.0


@dataclass(frozen=True)
class Kind:
    """One kind of experiment: its spec, its parameters, and the words of its only good end.

    Attributes
    ----------
    failure : str
        What the last line of its log holds; empty: it is completed.
    artifact : str
        Name of what it publishes.
    """

    name: str
    spec: str
    parameters: Callable[[random.Random], dict[str, Any]]
    failure: str = ""
    artifact: str = ""


@dataclass
class Tally:
    """What became of the experiments."""

    seed: int
    accepted: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost, nothing was there twice, and nothing else was wrong."""
        return not (self.lost or self.duplicated or self.faults)

    def lines(self) -> list[str]:
        """Return the tally for people."""
        return [
            f"seed {self.seed}, {self.seconds:.0f} s",
            f"broken: {_counted(self.broken)}",
            f"accepted {self.accepted}, completed {self.completed}, "
            f"failed {self.failed.total()} ({_counted(self.failed)})",
            f"attempts: {_counted(Counter({f'{n} of them': c for n, c in self.attempts.items()}))}",
            f"lost = {self.lost}, duplicated artifacts = {self.duplicated}",
            *(f"FAULT: {fault}" for fault in self.faults),
        ]


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counter.items())) or "none"


class Workers:
    """Worker processes that are started again when they end, and can be broken."""

    def __init__(self, plan: Plan, home: Path, url: str, log: Path) -> None:
        self._plan = plan
        self._log = log
        ours = ("PLATFORM_", "CONFIGS_", "DATABASE_URL", "STORAGE_URL", "API_KEYS")
        self._environment = {n: v for n, v in os.environ.items() if not n.startswith(ours)} | {
            "PLATFORM_HOME": str(home),
            "PLATFORM_ALLOW_LOCAL_PACKAGES": "true",
            "PLATFORM_WORKER_TIMEOUT_SECONDS": str(_WORKER_TIMEOUT_SECONDS),
            "PLATFORM_WORKER_SLOTS": "2",
            "PLATFORM_CANCEL_GRACE_SECONDS": "0.5",
            "PLATFORM_STOP_GRACE_SECONDS": "5",
            "PLATFORM_LOG_LEVEL": "WARNING",
            "DATABASE_URL": url,
            SUPERVISOR_VARIABLE: str(os.getpid()),
            "TMPDIR": str(home.parent),
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start those that do not run."""
        self._processes = [each for each in self._processes if each.poll() is None]
        with self._log.open("ab") as log:
            while len(self._processes) < self._plan.workers:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "dissmodel_platform", "worker"],
                        env=self._environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def pids(self) -> list[int]:
        """Return the process ids of those that run."""
        return [each.pid for each in self._processes if each.poll() is None]

    def servers(self) -> list[int]:
        """Return the process ids of fork servers, behind those that made their namespaces."""
        children = [child for pid in self.pids() for child in _children(pid)]
        found = []
        for outermost in (pid for pid in children if b"--socket-fd" in _command(pid)):
            server = outermost
            for _ in range(_LAYERS if b"bwrap" in _command(outermost) else 0):
                server = next(iter(_children(server)), server)
            found.append(server)
        return found

    def runs(self) -> list[int]:
        """Return the process ids of what fork servers have forked."""
        children = [child for pid in self.servers() for child in _children(pid)]
        return [pid for pid in children if not _command(pid).startswith(b"sleep")]

    async def stop(self) -> int:
        """Ask all to end; returns how many had to be killed."""
        for signum in (signal.SIGCONT, signal.SIGTERM):
            for process in self._processes:
                process.send_signal(signum)
        deadline = time.monotonic() + _LEFT_SECONDS
        while self.pids() and time.monotonic() < deadline:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.1)
        return self.kill()

    def kill(self) -> int:
        """End all the hard way; returns how many there were."""
        alive = len(self.pids())
        for process in self._processes:
            process.kill()
            process.wait()
        return alive


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in thread.read_text().split()]
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Monkey:
    """Breaks something now and then."""

    def __init__(self, dice: random.Random, workers: Workers, database: Database) -> None:
        self._dice = dice
        self._workers = workers
        self._database = database
        self.broken: Counter[str] = Counter()

    async def work(self, pause_seconds: float) -> None:
        """Break things until cancelled; what was stopped is woken then."""
        deeds: list[tuple[Callable[[], Awaitable[str | None]], int]] = [
            (self._kill_worker, 2),
            (self._kill_server, 2),
            (self._kill_run, 3),
            (self._stop_worker, 2),
            (self._terminate_sessions, 2),
        ]
        while True:
            await asyncio.sleep(self._dice.uniform(0, 2 * pause_seconds))
            (deed,) = self._dice.choices([d for d, _ in deeds], [weight for _, weight in deeds])
            with contextlib.suppress(ProcessLookupError, DatabaseError):
                done = await deed()
                if done is not None:
                    self.broken[done] += 1
            self._workers.start()

    async def _kill_worker(self) -> str | None:
        return self._kill(self._workers.pids(), "workers killed")

    async def _kill_server(self) -> str | None:
        return self._kill(self._workers.servers(), "fork servers killed")

    async def _kill_run(self) -> str | None:
        return self._kill(self._workers.runs(), "runs killed")

    def _kill(self, pids: list[int], what: str) -> str | None:
        if not pids:
            return None
        os.kill(self._dice.choice(pids), signal.SIGKILL)
        return what

    async def _stop_worker(self) -> str | None:
        """Stop a worker for less or more than the time after which it is taken for dead."""
        pids = self._workers.pids()
        if not pids:
            return None
        pid = self._dice.choice(pids)
        os.kill(pid, signal.SIGSTOP)
        self.broken["workers stopped for a while"] += 1
        try:
            await asyncio.sleep(self._dice.uniform(0.2, 1.7 * _WORKER_TIMEOUT_SECONDS))
        finally:
            os.kill(pid, signal.SIGCONT)
        return None

    async def _terminate_sessions(self) -> str | None:
        share = self._dice.choice([0.2, 1.0])
        await self._database.execute(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < %(share)s
            """,
            share=share,
        )
        return "times sessions terminated"


def _kinds(behaviours: str) -> dict[Kind, int]:
    """Return the kinds and how often each comes."""

    def spec(class_name: str, package: str = behaviours) -> str:
        line = f'package = "{package}"\n' if package else ""
        return f'[model]\nclass = "{class_name}"\n{line}'

    def nothing(_: random.Random) -> dict[str, Any]:
        return {}

    def ends(how: str) -> Callable[[random.Random], dict[str, Any]]:
        return lambda _: {"how": how}

    return {
        Kind(
            "echo",
            spec("echo", ""),
            lambda dice: {"message": f"{dice.random()}", "pause": dice.choice([0, 0, 1, 2])},
            artifact="echo.txt",
        ): 12,
        Kind(
            "waits",
            spec("waits"),
            lambda dice: {"seconds": dice.uniform(0, 1.5)},
            artifact="result.txt",
        ): 4,
        Kind("raises", spec("raises"), nothing, "elevation of cell 7 is missing"): 1,
        Kind("exits", spec("ends"), ends("sys.exit"), "called sys.exit(3)"): 1,
        Kind("SIGSEGV", spec("ends"), ends("SIGSEGV"), "ended by SIGSEGV"): 1,
        Kind("SIGABRT", spec("ends"), ends("SIGABRT"), "ended by SIGABRT"): 1,
    }


class Chaos:
    """One run of the plan."""

    def __init__(self, plan: Plan, home: Path, database: Database, workers: Workers) -> None:
        self._plan = plan
        self._home = home
        self._database = database
        self._workers = workers
        self._dice = random.Random(plan.seed)  # noqa: S311 - no secret
        self._submitted: dict[str, Kind] = {}
        self._messages: dict[str, str] = {}
        self._endings: dict[str, tuple[Any, ...]] = {}
        self.tally = Tally(plan.seed)

    async def run(self, kinds: dict[Kind, int]) -> Tally:
        """Submit, break, wait, count."""
        settings = Settings(home=self._home, allow_local_packages=True)
        queue = await open_queue(self._database)
        submitter = Submitter(self._database, queue, settings)
        self._workers.start()
        for kind in [next(k for k in kinds if k.name == name) for name in ("echo", "waits")]:
            await self._submit(submitter, kind)  # builds the environments before things break
        await self._until_final(0)
        begin = time.monotonic()
        dice = random.Random(self._plan.seed + 1)  # noqa: S311 - no secret
        monkey = Monkey(dice, self._workers, self._database)
        breaking = asyncio.create_task(monkey.work(self._plan.pause_seconds))
        try:
            while len(self._submitted) < self._plan.experiments:
                (kind,) = self._dice.choices(list(kinds), list(kinds.values()))
                await self._submit(submitter, kind)
                await asyncio.sleep(self._dice.uniform(0, 0.1))
            await self._until_final(int(_CALM_SHARE * self._plan.experiments))
        finally:
            breaking.cancel()
            await asyncio.gather(breaking, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await self._until_final(0)
        self.tally.seconds = time.monotonic() - begin
        self.tally.broken = monkey.broken
        if await self._workers.stop():
            self.tally.faults.append("a worker did not end when it was asked to")
        await self._count(open_object_store(None, settings.objects_directory))
        return self.tally

    async def _submit(self, submitter: Submitter, kind: Kind) -> None:
        parameters = kind.parameters(self._dice)
        while True:
            try:
                experiment = await submitter.submit_inline(
                    kind.spec, RunRequest("", parameters=parameters), submitted_by="chaos"
                )
                break
            except DatabaseError:  # not accepted, as far as a client knows
                await asyncio.sleep(0.1)
        self._submitted[experiment.id] = kind
        self._messages[experiment.id] = str(parameters.get("message", "waited"))

    async def _until_final(self, most_open: int) -> None:
        """Wait until at most so many have not ended; a state that was final stays as it was."""
        deadline = time.monotonic() + self._plan.limit_seconds
        while True:
            self._workers.start()
            with contextlib.suppress(DatabaseError):
                for row in await self._final_rows():
                    ending = (row["status"], row["attempt"], row["finished_at"])
                    if self._endings.setdefault(row["id"], ending) != ending:
                        self.tally.faults.append(f"{row['id']} ended twice")
                if len(self._submitted) - len(self._endings) <= most_open:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError
            await asyncio.sleep(_LOOK_SECONDS)

    async def _final_rows(self) -> list[dict[str, Any]]:
        return await self._database.fetch_all(
            """
            SELECT id, status, attempt, finished_at FROM experiments
            WHERE status IN ('completed', 'failed', 'cancelled') AND id = ANY(%(ids)s)
            """,
            ids=list(self._submitted),
        )

    async def _count(self, store: ObjectStore) -> None:
        """Compare what the database and the store hold with what was submitted."""
        tally = self.tally
        tally.accepted = len(self._submitted)
        rows = {row["id"]: row for row in await self._final_rows()}
        for experiment_id, kind in self._submitted.items():
            row = rows.get(experiment_id)
            if row is None:
                tally.lost += 1
                tally.faults.append(f"{experiment_id} ({kind.name}) never ended")
                continue
            tally.attempts[row["attempt"]] += 1
            if self._endings[experiment_id] != (row["status"], row["attempt"], row["finished_at"]):
                tally.faults.append(f"{experiment_id} ended twice")
            artifacts = await self._database.fetch_all(
                """
                SELECT a.name, a.sha256, o.sha256 AS stored FROM artifacts AS a
                LEFT JOIN objects AS o USING (uri) WHERE a.experiment_id = %(id)s
                """,
                id=experiment_id,
            )
            wanted = 1 if row["status"] == "completed" else 0
            tally.duplicated += max(0, len(artifacts) - wanted)
            if len(artifacts) < wanted:
                tally.faults.append(f"{experiment_id} is completed without its artifact")
            if row["status"] == "completed":
                await self._check_completed(store, experiment_id, kind, artifacts)
            else:
                await self._check_failed(experiment_id, kind)

    async def _check_completed(
        self, store: ObjectStore, experiment_id: str, kind: Kind, artifacts: list[dict[str, Any]]
    ) -> None:
        self.tally.completed += 1
        if kind.failure:
            self.tally.faults.append(f"{experiment_id} ({kind.name}) should have failed")
        for artifact in artifacts:
            content = b"".join([piece async for piece in store.stream(Sha256(artifact["sha256"]))])
            is_whole = artifact["sha256"] == artifact["stored"]
            is_its = content.decode() == self._messages[experiment_id]
            if artifact["name"] != kind.artifact or not is_whole or not is_its:
                self.tally.faults.append(f"{experiment_id} has another's artifact: {artifact}")

    async def _check_failed(self, experiment_id: str, kind: Kind) -> None:
        last = await self._database.fetch_one(
            "SELECT line FROM experiment_logs WHERE experiment_id = %(id)s"
            " ORDER BY seq DESC LIMIT 1",
            id=experiment_id,
        )
        reason = "" if last is None else str(last["line"])
        if kind.failure and kind.failure in reason:
            self.tally.failed[kind.name] += 1
        elif reason.startswith("The run was given up after"):
            self.tally.failed["given up after three losses"] += 1
        else:
            self.tally.faults.append(f"{experiment_id} ({kind.name}) failed for: {reason!r}")


def _processes_of(place: Path) -> list[int]:
    """Return the processes, other than this one, that have something to do with a directory."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            told += os.fsencode((process / "cwd").readlink())
        except OSError:  # it has ended, or is another user's
            continue
        if os.fsencode(place) in told:
            found.append(int(process.name))
    return found


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    database = Database(url, max_connections=4)
    await database.open()
    try:
        await migrate(database)
        yield database
    finally:
        await database.close()


async def run(plan: Plan, place: Path) -> Tally:
    """Carry a plan out in an empty directory.

    Returns
    -------
    Tally
        What became of the experiments; its faults name what broke the promise.
    """
    home = place / "home"
    home.mkdir(mode=0o700)
    if plan.packages is not None:
        (home / "packages").symlink_to(plan.packages)
    behaviours = _repository(place / "behaviours")
    with EmbeddedPostgres(home / "pg") as postgres:
        async with _opened(postgres.url) as database:
            workers = Workers(plan, home, postgres.url, place / "workers.log")
            chaos = Chaos(plan, home, database, workers)
            try:
                tally = await chaos.run(_kinds(f"git+{behaviours.as_uri()}@v1"))
            finally:
                workers.kill()
    deadline = time.monotonic() + _LEFT_SECONDS
    while (left := _processes_of(home)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    if left:
        tally.faults.append(f"processes are left: {left}")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return tally


def _repository(place: Path) -> Path:
    """Put the package of misbehaving models into a git repository."""
    shutil.copytree(_BEHAVIOURS / "behaviours", place, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_BEHAVIOURS / "plain_backend.py", place)
    author = ["-c", "user.name=chaos", "-c", "user.email=chaos@example.org"]
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*author, "commit", "--quiet", "--message=All"],
        ["tag", "v1"],
    ):
        subprocess.run(["git", "-C", str(place), *command], check=True)
    return place


def main() -> int:
    """Run it from the command line; 0: nothing was lost and nothing was there twice."""
    parser = argparse.ArgumentParser(description="Break things while experiments run, and count.")
    parser.add_argument("--experiments", type=int, default=300)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--packages", type=Path, help="directory of environments to use again")
    given = parser.parse_args()
    plan = Plan(given.experiments, given.seed, given.workers, packages=given.packages)
    print(f"seed {plan.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="dmp-", ignore_cleanup_errors=True) as place:
        tally = asyncio.run(run(plan, Path(place)))
        if not tally.is_sound:
            print((Path(place) / "workers.log").read_text(errors="replace")[-20_000:])
    print("\n".join(tally.lines()))
    return 0 if tally.is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
