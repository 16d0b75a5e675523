"""A commit that would do much harm at once waits for an administrator."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import RevisionNotFound
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.registry.holds import OnRewrite, accept, hold, waiting_hold
from dissmodel_platform.registry.index import latest_publication, model_names
from dissmodel_platform.registry.published_refs import published_revisions
from dissmodel_platform.services.sync import RegistrySync, check_accepted
from dissmodel_platform.types import Revision
from tests.integration.registry.conftest import MakeMirror, Registry

pytestmark = pytest.mark.anyio

TEN = [f"model_{number}" for number in range(10)]


@pytest.fixture
async def queue(database: Database) -> App:
    return await open_queue(database)


def make_sync(
    database: Database, queue: App, make_mirror: MakeMirror, on_rewrite: OnRewrite = "accept"
) -> RegistrySync:
    return RegistrySync(database, queue, make_mirror(), on_rewrite=on_rewrite)


def files(registry: Registry, names: list[str], value: int = 1) -> dict[str, str]:
    return {f"{name}.toml": registry.model(name, value) for name in names}


async def served(database: Database) -> list[str]:
    publication = await latest_publication(database)
    assert publication is not None
    return await model_names(database, publication)


async def test_withdrawing_many_models_at_once_waits_until_it_is_accepted(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    sync = make_sync(database, queue, make_mirror)
    first = registry.commit(files(registry, TEN))
    await sync.run("test")
    second = registry.commit(files(registry, TEN[:5]))
    run = await sync.run("test")
    assert (run.outcome, run.old_commit, run.new_commit) == ("held", first, second)
    assert f"registry accept {second}`" in run.message
    assert await served(database) == TEN
    assert (await sync.run("test")).outcome == "held", "it is not published by trying again"

    hold = await waiting_hold(database)
    assert hold is not None
    assert (hold.revision, "5 of 10" in hold.reason) == (second, True)
    with pytest.raises(RevisionNotFound):
        await accept(database, first[:12], accepted_by="somebody")
    assert await accept(database, second[:12], accepted_by="somebody") == second
    run = await sync.run("test")
    assert (run.outcome, run.removed) == ("published", TEN[5:])
    assert await waiting_hold(database) is None


async def test_withdrawing_few_or_a_small_share_is_not_held(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    sync = make_sync(database, queue, make_mirror)
    twenty = [f"m{number:02}" for number in range(20)]
    registry.commit(files(registry, twenty))
    await sync.run("test")
    registry.commit(files(registry, twenty[6:]))
    assert (await sync.run("test")).outcome == "published", "6 of 20 are no more than 30 %"
    registry.commit(files(registry, twenty[10:]))
    assert (await sync.run("test")).outcome == "published", "4 are fewer than 5"


async def test_a_later_commit_that_mends_it_is_published_by_itself(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    sync = make_sync(database, queue, make_mirror)
    registry.commit(files(registry, TEN))
    await sync.run("test")
    registry.commit(files(registry, TEN[:1]))
    assert (await sync.run("test")).outcome == "held"
    registry.commit(files(registry, TEN, value=2))
    run = await sync.run("test")
    assert (run.outcome, run.changed) == ("published", TEN)
    assert await waiting_hold(database) is None


async def test_a_commit_without_a_models_directory_withdraws_nothing_by_itself(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    sync = make_sync(database, queue, make_mirror)
    registry.commit(files(registry, ["only"]))
    await sync.run("test")
    registry.commit_tree([(registry.FILE, b"README.md", b"nothing left")])
    run = await sync.run("test")
    assert run.outcome == "held"
    assert "models/" in str(run.hold)
    assert await served(database) == ["only"]


async def test_an_empty_registry_is_published_at_first(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    registry.commit_tree([(registry.FILE, b"README.md", b"to be filled")])
    run = await make_sync(database, queue, make_mirror).run("test")
    assert (run.outcome, run.problems) == ("published", 1)
    assert await served(database) == []


@pytest.mark.parametrize(("on_rewrite", "outcome"), [("accept", "published"), ("hold", "held")])
async def test_a_rewritten_history_is_what_the_operator_says(
    database: Database,
    queue: App,
    registry: Registry,
    make_mirror: MakeMirror,
    on_rewrite: OnRewrite,
    outcome: str,
) -> None:
    sync = make_sync(database, queue, make_mirror, on_rewrite)
    first = registry.commit(files(registry, ["a"]))
    await sync.run("test")
    registry.commit(files(registry, ["a"], value=2))
    assert (await sync.run("test")).outcome == "published", "this one follows the first"
    registry.commit(files(registry, ["a"], value=3), parent=None)
    assert (await sync.run("test")).outcome == outcome
    registry.reset(first)
    assert (await sync.run("test")).outcome == outcome


async def test_an_acceptance_is_of_one_step_and_not_for_ever(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    sync = make_sync(database, queue, make_mirror, "hold")
    registry.commit(files(registry, TEN))
    await sync.run("test")
    few = registry.commit(files(registry, TEN[:1]))
    assert (await sync.run("test")).outcome == "held"
    await accept(database, few, accepted_by="somebody")
    assert (await sync.run("test")).outcome == "published"
    registry.commit(files(registry, TEN))
    assert (await sync.run("test")).outcome == "published"
    registry.reset(few)
    run = await sync.run("test")
    assert run.outcome == "held"
    assert await served(database) == TEN
    assert await accept(database, few, accepted_by="somebody") == few
    assert (await sync.run("test")).outcome == "published"


async def test_an_acceptance_survives_another_commit_that_waits(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    sync = make_sync(database, queue, make_mirror)
    registry.commit(files(registry, TEN))
    await sync.run("test")
    accepted = registry.commit(files(registry, TEN[:1]))
    await sync.run("test")
    await accept(database, accepted, accepted_by="somebody")
    other = registry.commit(files(registry, TEN[:2]))
    run = await sync.run("test")
    assert (run.outcome, run.new_commit) == ("held", other)
    with pytest.raises(RevisionNotFound, match="no longer the head"):
        check_accepted(run, Revision(accepted))
    registry.reset(accepted)
    assert (await sync.run("test")).outcome == "published", "nothing was published meanwhile"
    assert await database.fetch_all("SELECT * FROM registry_holds") == []


async def test_a_hold_ends_when_the_branch_returns_to_what_is_published(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    sync = make_sync(database, queue, make_mirror)
    first = registry.commit(files(registry, TEN))
    await sync.run("test")
    held = registry.commit(files(registry, TEN[:1]))
    await sync.run("test")
    assert await waiting_hold(database) is not None
    registry.reset(first)
    assert (await sync.run("test")).outcome == "unchanged"
    assert await waiting_hold(database) is None
    with pytest.raises(RevisionNotFound, match="waiting"):
        await accept(database, held, accepted_by="somebody")


async def test_a_commit_that_is_only_held_is_not_kept_as_a_published_one(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    sync = make_sync(database, queue, make_mirror)
    first = registry.commit(files(registry, TEN))
    await sync.run("test")
    registry.commit(files(registry, TEN[:1]))
    assert (await sync.run("test")).outcome == "held"
    assert published_revisions(make_mirror().directory) == {first}


@pytest.mark.parametrize("commit", ["", "abc", "\0aaaaaaa", "%" * 10, "HEAD"])
async def test_what_names_no_commit_accepts_none(database: Database, commit: str) -> None:
    with pytest.raises(RevisionNotFound):
        await accept(database, commit, accepted_by="somebody")


async def test_digits_that_several_commits_begin_with_accept_none(database: Database) -> None:
    for end in "12":
        await database.execute(
            "INSERT INTO registry_holds (revision, base, reason)"
            " VALUES (%(revision)s, '', 'a reason')",
            revision="abcdef01" + end * 32,
        )
    with pytest.raises(RevisionNotFound):
        await accept(database, "abcdef01", accepted_by="somebody")
    assert await accept(database, "abcdef012", accepted_by="somebody") == "abcdef01" + "2" * 32


def run_command(database_url: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dissmodel_platform", "registry", *arguments],
        env={**os.environ, "DATABASE_URL": database_url, "PLATFORM_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_command_line_names_what_waits_and_asks_which_commit_is_meant(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    await database.execute("INSERT INTO registry_publications (revision) VALUES ('base')")
    async with database.transaction() as connection:
        await hold(connection, Revision("a" * 40), Revision("base"), "It waits.")
    status = await asyncio.to_thread(run_command, database_url, tmp_path, "status")
    assert f"waits to be accepted: {'a' * 40}, It waits." in status.stdout
    unnamed = await asyncio.to_thread(run_command, database_url, tmp_path, "accept")
    assert (unnamed.returncode, "commit" in unnamed.stderr.lower()) == (2, True)
    assert await waiting_hold(database) is not None


async def test_a_rewrite_is_held_also_where_the_published_commit_is_nowhere_any_more(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    sync = make_sync(database, queue, make_mirror, "hold")
    first = registry.commit(files(registry, ["a"]))
    await sync.run("test")
    registry.commit(files(registry, ["a"], value=2), parent=None)
    registry.git("gc", "--quiet", "--prune=now")
    shutil.rmtree(make_mirror().directory)
    run = await sync.run("test")
    assert not make_mirror().has_commit(Revision(first))
    assert (run.outcome, run.old_commit) == ("held", first)
