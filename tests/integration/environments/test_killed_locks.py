"""Workers that are killed while they make a lock leave nothing that counts as one."""

from __future__ import annotations

import hashlib
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import pytest

from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.services.prepare import open_environments
from dissmodel_platform.settings import Settings
from tests.integration.environments.index import LocalIndex, executor, serving

pytestmark = pytest.mark.anyio

Preparing = Callable[[str], AbstractContextManager[IO[str]]]
KILLS = 5

# Prepares one model until its lock is kept; says when it begins, and when that is so.
PREPARE = """
import asyncio, os, sys
from pathlib import Path
from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments import records
from dissmodel_platform.registry.spec import parse_spec
from dissmodel_platform.services.prepare import Preparer, open_environments
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.objects import open_object_store

keep_lock = records.keep_lock

async def keep_and_leave(*arguments):
    await keep_lock(*arguments)
    print("locked", flush=True)
    os._exit(0)

async def main(home, url, name):
    records.keep_lock = keep_and_leave
    settings = Settings(home=Path(home))
    database = Database(url)
    await database.open()
    store = open_environments(settings, settings.packages_directory)
    objects = open_object_store(None, settings.objects_directory)
    preparer = Preparer(database, store, objects, allow_local=False)
    text = '[model]\\nclass = "tide"\\npackage = "tide"\\n'
    print("begins", flush=True)
    await preparer.prepare(parse_spec(f"models/{name}.toml", text).spec)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalIndex]:
    """Serve a package that has to be built, beside dissmodel's stand-in."""
    with serving(LocalIndex()) as served:
        monkeypatch.setenv("UV_DEFAULT_INDEX", served.url)
        served.add_stand_in()
        served.add_sdist("tide", "1.0", {"tide.py": executor("tide")})
        yield served


@pytest.fixture
def preparing(database_url: str, tmp_path: Path) -> Preparing:
    """Start a worker of its own that prepares a model, and wait until it begins."""

    @contextmanager
    def start(name: str) -> Iterator[IO[str]]:
        with subprocess.Popen(
            [sys.executable, "-c", PREPARE, str(tmp_path), database_url, name],
            env={**os.environ, "TMPDIR": str(tmp_path)},  # what it cannot remove goes with the test
            stdout=subprocess.PIPE,
            text=True,
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "begins\n"
            try:
                yield worker.stdout
            finally:
                worker.kill()

    return start


async def lock_of(database: Database, name: str) -> Lock | None:
    row = await database.fetch_one(
        "SELECT l.content FROM environments AS e JOIN locks AS l ON l.sha256 = e.lock_sha256"
        " WHERE e.model_name = %(name)s",
        name=name,
    )
    return Lock.parse(row["content"]) if row else None


def digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


async def test_a_lock_whose_making_was_killed_at_any_moment_counts_only_if_it_is_whole(
    database: Database, index: LocalIndex, preparing: Preparing, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    with preparing("tide") as output:
        begin = time.monotonic()
        assert output.readline() == "locked\n"
        usual_seconds = time.monotonic() - begin
    draw, number = random.Random(4), 0
    for _ in range(KILLS):
        with preparing(f"tide-{number}") as output:
            was_locked = bool(select.select([output], [], [], draw.uniform(0, usual_seconds))[0])
        lock = await lock_of(database, f"tide-{number}")
        assert lock is not None or not was_locked
        wheels = list((settings.packages_directory / "wheels").rglob("*.whl"))
        assert all(digest(wheel) == wheel.parent.name for wheel in wheels)
        blobs = list(settings.objects_directory.glob("blobs/*/*"))
        assert all(digest(blob) == blob.name for blob in blobs)
        if lock is not None:
            assert {wheel.sha256 for wheel in lock.built} <= {blob.name for blob in blobs}
            number += 1  # the next one is killed while it makes a lock as well

    with preparing(f"tide-{number}") as output:
        assert output.readline() == "locked\n"
    lock = await lock_of(database, f"tide-{number}")
    assert lock is not None
    assert [wheel.name for wheel in lock.built] == ["tide"]
    open_environments(settings, settings.packages_directory)  # whoever opens it sweeps up
    assert not list((settings.packages_directory / "scratch").iterdir())
