"""A commit of the registry becomes models that can be run: published whole, kept for ever."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest
from procrastinate import App

from dissmodel_platform.database.pool import Database, execute
from dissmodel_platform.errors import (
    DatabaseError,
    ModelNotFound,
    RegistryError,
    RevisionNotFound,
    SyncTimeout,
)
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.registry.catalog import ParsedCatalog, parse_catalog
from dissmodel_platform.registry.git_faults import GitFailed, GitFault
from dissmodel_platform.registry.index import (
    find_publication,
    get_catalog,
    get_model,
    latest_publication,
    list_models,
    list_problems,
    model_history,
    model_names,
)
from dissmodel_platform.registry.listing import MAX_PROBLEMS
from dissmodel_platform.registry.mirror import Mirror
from dissmodel_platform.registry.problems import SpecProblem
from dissmodel_platform.registry.publishing import begin_publication
from dissmodel_platform.registry.snapshot import read_snapshot
from dissmodel_platform.registry.spec import ParsedSpec, parse_spec
from dissmodel_platform.registry.sync_runs import (
    SYNC_LOCK,
    Overtaken,
    Waiting,
    add_request,
    answer_to,
    begin_run,
    last_runs,
    list_runs,
    request_sync,
    waiting_requests,
)
from dissmodel_platform.services.sync import RegistrySync, ask_for_sync
from dissmodel_platform.types import Revision
from tests.integration.registry.conftest import Entry, MakeMirror, Registry
from tests.processes import at_most_grown_by

pytestmark = pytest.mark.anyio

CATALOG = """\
sources:
  grid:
    driver: shapefile
    args: {urlpath: "s3://dissmodel-inputs/inputs/examples/grid.zip"}
"""


@pytest.fixture
async def queue(database: Database) -> App:
    return await open_queue(database)


@pytest.fixture
async def sync(database: Database, queue: App, make_mirror: MakeMirror) -> RegistrySync:
    return RegistrySync(database, queue, make_mirror())


@pytest.fixture
async def watching(sync: RegistrySync) -> AsyncIterator[asyncio.Event]:
    """Run the sync process's loop beside the test."""
    stop = asyncio.Event()
    task = asyncio.create_task(sync.watch(stop, interval_seconds=3600))
    yield stop
    stop.set()
    await task


def files(registry: Registry, **values: int) -> dict[str, str]:
    return {f"{name}.toml": registry.model(name, value) for name, value in values.items()}


def catalog_file(registry: Registry, content: str) -> list[Entry]:
    return [(registry.FILE, b"catalog.yaml", content.encode())]


async def served_sources(database: Database) -> dict[str, object]:
    publication = await latest_publication(database)
    assert publication is not None
    return await get_catalog(database, publication)


async def served(database: Database) -> dict[str, int]:
    """Return the served models with the value of their one parameter."""
    publication = await latest_publication(database)
    assert publication is not None
    names = [model.name for model in await list_models(database, publication, limit=1000)]
    models = [await get_model(database, publication, name) for name in names]
    return {m.name: m.document["model"]["parameters"]["value"] for m in models}


def before_publishing(
    monkeypatch: pytest.MonkeyPatch,
    loop: asyncio.AbstractEventLoop,
    action: Callable[[], Coroutine[None, None, None]],
) -> None:
    """Have something happen once, when a run has read its commit and has not published it yet."""
    actions = [action]
    keep = Mirror.keep

    def interrupted(mirror: Mirror, revision: Revision) -> None:
        if actions:
            asyncio.run_coroutine_threadsafe(actions.pop()(), loop).result(30)
        keep(mirror, revision)

    monkeypatch.setattr(Mirror, "keep", interrupted)


async def test_a_commit_is_published_with_what_changed(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    first = registry.commit(files(registry, kept=1, edited=1, dropped=1))
    run = await sync.run("test")
    assert (run.error, run.old_commit, run.new_commit) == (None, None, first)
    assert run.added == ["dropped", "edited", "kept"]
    second = registry.commit(files(registry, kept=1, edited=2, new=1))
    run = await sync.run("test")
    assert (run.old_commit, run.new_commit) == (first, second)
    assert (run.added, run.changed, run.removed) == (["new"], ["edited"], ["dropped"])
    assert await served(database) == {"kept": 1, "edited": 2, "new": 1}


async def test_nothing_new_publishes_nothing(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, a=1))
    await sync.run("test")
    before = await latest_publication(database)
    run = await sync.run("test")
    assert run.message.startswith("Nothing new")
    assert await latest_publication(database) == before


async def test_a_broken_edit_keeps_the_last_good_version_and_hides_no_other(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, good=1, broken=1))
    await sync.run("test")
    registry.commit({**files(registry, good=2), "broken.toml": "[model\n"})
    run = await sync.run("test")
    assert (run.changed, run.removed, run.problems) == (["good"], [], 1)
    assert await served(database) == {"good": 2, "broken": 1}
    publication = await latest_publication(database)
    assert publication is not None
    assert (await get_model(database, publication, "broken")).stale
    assert not (await get_model(database, publication, "good")).stale
    (problem,) = (await list_problems(database)).problems
    assert (problem["path"], problem["line"]) == ("models/broken.toml", 1)

    registry.commit({**files(registry, good=3), "broken.toml": "[model\n"})
    assert (await sync.run("test")).problems == 1, "an unchanged fault stays listed"
    registry.commit(files(registry, good=3, broken=2))
    assert (await sync.run("test")).problems == 0
    assert await served(database) == {"good": 3, "broken": 2}


async def test_a_problem_goes_with_its_file(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit({**files(registry, good=1), "broken.toml": "[model\n"})
    assert (await sync.run("test")).problems == 1
    registry.commit(files(registry, good=1))
    assert (await sync.run("test")).problems == 0


async def test_any_published_commit_can_be_read_again_also_after_a_rewrite(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    first = registry.commit(files(registry, a=1, b=1))
    await sync.run("test")
    second = registry.commit(files(registry, a=2), parent=None)
    await sync.run("test")
    assert await served(database) == {"a": 2}
    old = await find_publication(database, first)
    assert await model_names(database, old) == ["a", "b"]
    assert (await get_model(database, old, "a")).document["model"]["parameters"]["value"] == 1
    by_prefix = await find_publication(database, second[:10])
    assert by_prefix.revision == second
    with pytest.raises(RevisionNotFound):
        await find_publication(database, "0" * 40)
    with pytest.raises(RevisionNotFound):
        await find_publication(database, "main")


async def test_a_rewind_withdraws_what_came_later_and_can_be_undone(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    first = registry.commit(files(registry, a=1))
    await sync.run("test")
    second = registry.commit(files(registry, a=2, b=1))
    await sync.run("test")
    registry.reset(first)
    run = await sync.run("test")
    assert (run.changed, run.removed) == (["a"], ["b"])
    assert await served(database) == {"a": 1}
    registry.reset(second)
    await sync.run("test")
    assert await served(database) == {"a": 2, "b": 1}
    assert await model_names(database, await find_publication(database, first)) == ["a"]


async def test_a_listing_reads_no_spec(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, a=1))
    await sync.run("test")
    publication = await latest_publication(database)
    assert publication is not None
    await database.execute(
        "ALTER TABLE model_versions DROP COLUMN document, DROP COLUMN source_text"
    )
    assert [m.name for m in await list_models(database, publication, limit=10)] == ["a"]


async def test_a_commit_stands_for_the_same_versions_at_each_of_its_publications(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    broken = {"edited.toml": "[model\n", "gone.toml": "", "never.toml": "[model\n"}
    registry.commit(files(registry, edited=1, gone=1))
    await sync.run("test")
    first = registry.commit({**broken, **files(registry, other=1)})
    await sync.run("test")
    assert await served(database) == {"edited": 1, "gone": 1, "other": 1}
    second = registry.commit(files(registry, edited=2, never=2, other=1))
    await sync.run("test")
    third = registry.commit({**files(registry, other=1), "edited.toml": "[model\n"})
    await sync.run("test")
    assert await served(database) == {"edited": 2, "other": 1}
    for _ in range(2):
        registry.reset(first)
        run = await sync.run("test")
        assert (run.added, run.changed) == (["gone"], ["edited"])
        assert run.changed_keys == {"edited": ["model.parameters.value"]}
        assert await served(database) == {"edited": 1, "gone": 1, "other": 1}
        registry.reset(second)
        await sync.run("test")
        assert await served(database) == {"edited": 2, "never": 2, "other": 1}
        registry.reset(third)
        await sync.run("test")
        assert await served(database) == {"edited": 2, "other": 1}
    registry.reset(second)
    await sync.run("test")
    registry.reset(first)
    assert (await sync.run("test")).removed == ["never"], "it was not served with that commit"


async def test_stale_is_said_of_the_commit_that_is_asked_for(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    first = registry.commit(files(registry, a=1))
    await sync.run("test")
    broken = registry.commit({"a.toml": "[model\n"})
    await sync.run("test")
    mended = registry.commit(files(registry, a=2))
    await sync.run("test")

    async def is_stale(commit: str) -> bool:
        publication = await find_publication(database, commit)
        (listed,) = await list_models(database, publication, limit=5)
        assert (await get_model(database, publication, "a")).stale is listed.stale
        return listed.stale

    for commit in (mended, broken, mended):
        registry.reset(commit)
        await sync.run("test")
        assert [await is_stale(c) for c in (first, broken, mended)] == [False, True, False]
        found = await list_problems(database)
        assert (found.revision, len(found.problems)) == (commit, int(commit == broken))


async def test_every_refused_file_leaves_its_model_stale_however_many_they_are(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    names = [f"m{number:04}" for number in range(MAX_PROBLEMS + 100)]
    registry.commit({f"{name}.toml": registry.model(name) for name in names})
    await sync.run("test")
    registry.commit({f"{name}.toml": "" for name in names})
    assert (await sync.run("test")).problems == MAX_PROBLEMS + 1
    publication = await latest_publication(database)
    assert publication is not None
    models = await list_models(database, publication, limit=2 * len(names))
    assert len(models) == len(names)
    assert all(model.stale for model in models)


async def test_a_catalogue_that_is_mended_by_going_back_has_no_problem_any_more(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    for content, problems in ((CATALOG, 0), ("sources: [", 1), ("sources: [", 1), (CATALOG, 0)):
        number = len(await list_runs(database, limit=9, before=None))
        registry.commit(files(registry, a=number), others=catalog_file(registry, content))
        assert (await sync.run("test")).problems == problems
        assert list(await served_sources(database)) == ["grid"]


async def test_a_catalogue_that_must_not_be_read_keeps_the_last_good_one(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, a=1), others=catalog_file(registry, CATALOG))
    await sync.run("test")
    directory = registry.tree([(registry.FILE, b"a", b"a file")])
    for entry, code in (
        ((registry.LINK, b"catalog.yaml", b"/etc/passwd"), "symbolic-link"),
        ((registry.TREE, b"catalog.yaml", directory), "not-a-file"),
    ):
        registry.commit(files(registry, a=1), others=[entry])
        await sync.run("test")
        assert list(await served_sources(database)) == ["grid"]
        assert [p["code"] for p in (await list_problems(database)).problems] == [code]
    registry.commit(files(registry, a=1))
    assert (await sync.run("test")).problems == 0
    assert await served_sources(database) == {}, "one that is gone is withdrawn"


@pytest.mark.parametrize("entry", ["broken", "refused"])
async def test_a_commit_stands_for_the_same_catalogue_at_each_of_its_publications(
    database: Database, registry: Registry, sync: RegistrySync, entry: str
) -> None:
    bad = catalog_file(registry, "sources: [")
    if entry == "refused":
        bad = [(registry.LINK, b"catalog.yaml", b"/etc/passwd")]
    registry.commit(files(registry, a=1), others=catalog_file(registry, CATALOG))
    await sync.run("test")
    first = registry.commit(files(registry, a=1), others=bad)
    await sync.run("test")
    other = CATALOG.replace("grid:", "another:")
    second = registry.commit(files(registry, a=1), others=catalog_file(registry, other))
    for _ in range(2):
        registry.reset(second)
        await sync.run("test")
        assert list(await served_sources(database)) == ["another"]
        registry.reset(first)
        await sync.run("test")
        assert list(await served_sources(database)) == ["grid"]


def read_by_another(monkeypatch: pytest.MonkeyPatch, reader: str) -> None:
    for user in ("services.sync", "registry.publishing"):
        monkeypatch.setattr(f"dissmodel_platform.{user}.reader_version", lambda: reader)


async def test_a_mended_reader_reaches_files_that_have_not_changed(
    database: Database, registry: Registry, sync: RegistrySync, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, _: bytes) -> ParsedSpec:
        return ParsedSpec(None, (SpecProblem(path, "bug", "A fault of the reader."),))

    with monkeypatch.context() as patch:
        read_by_another(patch, "an old one")
        patch.setattr("dissmodel_platform.registry.snapshot.parse_spec", refuse)
        tip = registry.commit(files(registry, a=1))
        assert (await sync.run("test")).problems == 1
    run = await sync.run("after the upgrade")
    assert (run.outcome, run.added, run.problems) == ("published", ["a"], 0)
    assert (run.old_commit, run.new_commit) == (tip, tip)
    assert (await sync.run("test")).outcome == "unchanged", "once is enough"


async def test_another_reader_that_reads_the_same_changes_nothing(
    database: Database, registry: Registry, sync: RegistrySync, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [f"m{number}" for number in range(8)]
    others = catalog_file(registry, CATALOG)
    registry.commit(files(registry, **dict.fromkeys(many, 1)), others=others)
    await sync.run("test")
    read_by_another(monkeypatch, "another")
    run = await sync.run("test")
    assert (run.outcome, run.added, run.changed, run.removed) == ("published", [], [], [])
    jobs = await database.fetch_all("SELECT * FROM procrastinate_jobs")
    assert len(jobs) == 1, "nothing is built anew"
    assert len(await database.fetch_all("SELECT * FROM model_versions")) == len(many)
    assert len(await database.fetch_all("SELECT * FROM catalogs")) == 1


async def test_what_another_reader_reads_otherwise_is_a_change(
    database: Database, registry: Registry, sync: RegistrySync, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str, text: bytes) -> ParsedSpec:
        parsed = parse_spec(path, text)
        assert parsed.spec is not None
        document = {**parsed.spec.document, "read": "otherwise"}
        return ParsedSpec(replace(parsed.spec, document=document), parsed.problems)

    def read_catalog(content: bytes) -> ParsedCatalog:
        parsed = parse_catalog(content)
        assert parsed.sources is not None
        return ParsedCatalog({"renamed": parsed.sources["grid"]}, ())

    registry.commit(files(registry, a=1), others=catalog_file(registry, CATALOG))
    await sync.run("test")
    with monkeypatch.context() as patch:
        read_by_another(patch, "another")
        patch.setattr("dissmodel_platform.registry.snapshot.parse_spec", read)
        patch.setattr("dissmodel_platform.registry.published_catalog.parse_catalog", read_catalog)
        run = await sync.run("test")
        assert (run.changed, run.changed_keys) == (["a"], {"a": ["read"]})
        assert list(await served_sources(database)) == ["renamed"]
    assert (await sync.run("test")).changed == ["a"], "and back"
    assert list(await served_sources(database)) == ["grid"]


async def test_an_unknown_model_names_the_nearest(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, flood_vector=1, mangrove=1))
    await sync.run("test")
    publication = await latest_publication(database)
    assert publication is not None
    with pytest.raises(ModelNotFound, match="flood_vector") as caught:
        await get_model(database, publication, "flod_vector")
    assert caught.value.nearest == ["flood_vector"]


async def test_an_unknown_name_among_very_many_long_ones_does_not_stop_the_process(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, flood_vector=1))
    await sync.run("test")
    publication = await latest_publication(database)
    assert publication is not None
    await database.execute(
        """
        WITH added AS (
            INSERT INTO model_versions (model_name, blob_oid, description, document, source_text)
            SELECT repeat('land_use_change_', 5) || lpad(n::text, 6, '0'), 'x', '', '{}', ''
            FROM generate_series(1, 10000) AS n RETURNING id, model_name
        )
        INSERT INTO model_history SELECT model_name, id, %(seq)s, NULL FROM added
        """,
        seq=publication.seq,
    )
    for name in ("land_use_change_" * 5 + "00000x", "flod_vector"):
        begin = time.process_time()
        with pytest.raises(ModelNotFound) as caught:
            await get_model(database, publication, name)
        with pytest.raises(ModelNotFound) as in_history:
            await model_history(database, name)
        assert time.process_time() - begin < 0.4, "comparing all of them takes more than twice that"
        assert caught.value.nearest == in_history.value.nearest != []
    assert caught.value.nearest == ["flood_vector"]


async def test_the_order_of_a_specs_keys_is_the_authors(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    text = '[model]\nname = "a"\n[model.parameters]\nzeta = 1\nb = 2\nalpha = 3\n'
    registry.commit({"a.toml": text})
    await sync.run("test")
    publication = await latest_publication(database)
    assert publication is not None
    document = (await get_model(database, publication, "a")).document
    assert json.dumps(document["model"]["parameters"]) == '{"zeta": 1, "b": 2, "alpha": 3}'


async def test_a_failing_remote_leaves_the_published_commit_and_says_why(
    database: Database, registry: Registry, sync: RegistrySync, tmp_path: Path
) -> None:
    registry.commit(files(registry, a=1))
    await sync.run("test")
    registry.directory.rename(tmp_path / "elsewhere")
    run = await sync.run("test")
    assert run.error
    assert await served(database) == {"a": 1}
    (tmp_path / "elsewhere").rename(registry.directory)
    assert (await sync.run("test")).error is None


async def test_a_failure_is_written_down_whatever_characters_its_words_have(
    database: Database, registry: Registry, sync: RegistrySync, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(_: object) -> None:
        raise GitFailed(GitFault.OTHER, "git said \0\x1b[31m.", stderr_tail="remote: \0\x07")

    monkeypatch.setattr(Mirror, "update", lambda _, published: break_off(published))
    run = await sync.run("test")
    (written,) = await list_runs(database, limit=5, before=None)
    assert (written.outcome, written.error) == ("failed", "git said \N{REPLACEMENT CHARACTER}.")
    assert (run.error, run.git_output) == (written.error, written.git_output)
    assert (written.old_commit, written.new_commit) == (None, None)


async def test_a_failed_run_names_the_commit_that_it_could_not_publish(
    database: Database, registry: Registry, sync: RegistrySync, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = registry.commit(files(registry, a=1))
    await sync.run("test")
    second = registry.commit(files(registry, a=2))

    def fill_the_disk(*_: object) -> None:
        raise GitFailed(GitFault.DISK_FULL, "The disk is full.")

    monkeypatch.setattr(Mirror, "keep", fill_the_disk)
    run = await sync.run("test")
    assert (run.outcome, run.old_commit, run.new_commit) == ("failed", first, second)


@pytest.mark.parametrize("fault", [GitFault.DISK_FULL, GitFault.CORRUPT])
async def test_a_published_commit_stays_published_when_tidying_the_mirror_fails(
    database: Database,
    registry: Registry,
    sync: RegistrySync,
    monkeypatch: pytest.MonkeyPatch,
    fault: GitFault,
) -> None:
    def break_off(_: object) -> None:
        raise GitFailed(fault, "It broke.")

    monkeypatch.setattr(Mirror, "maintain", break_off)
    tip = registry.commit(files(registry, a=1))
    run = await sync.run("test")
    assert (run.outcome, run.error, run.added, run.new_commit) == ("published", None, ["a"], tip)
    (written,) = await list_runs(database, limit=5, before=None)
    assert (written.outcome, written.error) == ("published", None)
    assert len(await database.fetch_all("SELECT * FROM registry_publications")) == 1


async def test_publishing_wakes_a_builder_once(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, a=1, b=1))
    await sync.run("test")
    await sync.run("test")
    jobs = await database.fetch_all("SELECT args FROM procrastinate_jobs WHERE status = 'todo'")
    publication = await latest_publication(database)
    assert publication is not None
    assert [job["args"] for job in jobs] == [{"publication": publication.seq}]


async def test_a_publication_that_fails_half_way_leaves_no_trace(
    database: Database,
    registry: Registry,
    sync: RegistrySync,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.commit(files(registry, a=1))
    await sync.run("test")

    async def break_off(*_: object) -> None:
        raise RuntimeError("the power fails")

    registry.commit(files(registry, a=2, b=1))
    with monkeypatch.context() as patch:
        patch.setattr("dissmodel_platform.services.sync.enqueue_builds", break_off)
        assert "power" in str((await sync.run("test")).error)
    assert await served(database) == {"a": 1}
    assert (await sync.run("test")).error is None
    assert await served(database) == {"a": 2, "b": 1}


async def test_a_damaged_mirror_is_cloned_anew_and_loses_no_published_commit(
    database: Database, registry: Registry, sync: RegistrySync, make_mirror: MakeMirror
) -> None:
    first = registry.commit(files(registry, a=1))
    await sync.run("test")
    mirror = make_mirror()
    for pack in mirror.directory.glob("objects/pack/*"):
        pack.unlink()
    registry.commit(files(registry, a=2))
    run = await sync.run("test")
    assert run.error is None
    assert await served(database) == {"a": 2}
    assert mirror.has_commit(find := (await find_publication(database, first)).revision), find


async def test_a_run_that_lost_its_lock_publishes_nothing_and_is_done_again(
    database: Database,
    queue: App,
    registry: Registry,
    sync: RegistrySync,
    make_mirror: MakeMirror,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.commit(files(registry, a=1, b=1))
    await sync.run("test")
    second = RegistrySync(database, queue, make_mirror())
    loop = asyncio.get_running_loop()

    async def come_between() -> None:
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()"
        )
        registry.commit(files(registry, a=3, b=3))
        assert (await second.run("second")).outcome == "published"

    before_publishing(monkeypatch, loop, come_between)
    registry.commit(files(registry, a=2, b=1, only=2))
    request = await request_sync(database, "somebody")
    run = await sync.run("first")
    assert run.error is None
    assert await served(database) == {"a": 3, "b": 3}
    runs = await list_runs(database, limit=9, before=None)
    assert [r.outcome for r in runs] == ["unchanged", "published", "failed", "published"]
    answer = await answer_to(database, request)
    assert answer is not None
    assert answer.error is None


async def test_a_publication_that_does_not_follow_the_latest_is_refused(
    database: Database, registry: Registry, sync: RegistrySync, mirror: Mirror
) -> None:
    registry.commit(files(registry, a=1))
    await sync.run("test")
    change = read_snapshot(mirror, mirror.update().revision, None)
    for after in (None, 999):
        with pytest.raises(Overtaken):
            async with database.transaction() as connection:
                await begin_publication(connection, change, after=after, reads_catalog=True)
    assert len(await database.fetch_all("SELECT * FROM registry_publications")) == 1


async def test_a_run_that_was_declared_dead_publishes_nothing_and_is_done_again(
    database: Database, registry: Registry, sync: RegistrySync, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin_another() -> None:
        await begin_run(database, "another")

    before_publishing(monkeypatch, asyncio.get_running_loop(), begin_another)
    registry.commit(files(registry, a=1))
    assert (await sync.run("test")).outcome == "published"
    assert len(await database.fetch_all("SELECT * FROM registry_publications")) == 1
    runs = await list_runs(database, limit=9, before=None)
    assert [r.outcome for r in runs] == ["published", "failed", "failed"]


async def test_a_failed_run_that_was_declared_dead_is_done_again(
    database: Database, registry: Registry, sync: RegistrySync, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin_another() -> None:
        await begin_run(database, "another")
        raise OSError("it breaks, too")

    before_publishing(monkeypatch, asyncio.get_running_loop(), begin_another)
    registry.commit(files(registry, a=1))
    assert (await sync.run("test")).outcome == "published"


async def test_what_another_process_has_answered_is_not_synced_again(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, a=1))
    assert await sync.answer_requests() is None
    assert await list_runs(database, limit=5, before=None) == []
    request = await request_sync(database, "somebody")
    run = await sync.answer_requests()
    assert run is not None
    assert run.outcome == "published"
    assert await answer_to(database, request) is not None
    assert await sync.answer_requests() is None


async def test_the_next_run_answers_for_one_whose_process_died(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, a=1))
    request = await request_sync(database, "somebody")
    await begin_run(database, "killed")
    run = await sync.run("next")
    answer = await answer_to(database, request)
    assert answer is not None
    assert answer.id == run.id
    ended = (await list_runs(database, limit=5, before=None))[1]
    assert (ended.trigger, ended.outcome) == ("killed", "failed")
    assert "midway" in str(ended.error)


async def test_the_next_run_answers_for_one_that_lost_the_database(
    database: Database, registry: Registry, sync: RegistrySync, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_off(*_: object) -> None:
        raise DatabaseError("PostgreSQL broke off.")

    tip = registry.commit(files(registry, a=1))
    request = await request_sync(database, "somebody")
    with monkeypatch.context() as patch:
        patch.setattr("dissmodel_platform.services.sync.enqueue_builds", break_off)
        with pytest.raises(DatabaseError):
            await sync.run("broken off")
    assert await answer_to(database, request) is None
    assert await waiting_requests(database) == "open"
    await sync.run("next")
    answer = await answer_to(database, request)
    assert answer is not None
    assert (answer.trigger, answer.new_commit) == ("next", tip)


@pytest.mark.usefixtures("watching")
async def test_a_request_that_another_process_took_and_died_with_is_answered_soon(
    database: Database, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.commit(files(registry, a=1))
    await ask_for_sync(database, "test", timeout_seconds=30)
    seen = asyncio.Event()

    async def look(opened: Database) -> Waiting:
        asked = await waiting_requests(opened)
        if asked == "taken":
            seen.set()
        return asked

    monkeypatch.setattr("dissmodel_platform.services.sync.waiting_requests", look)
    tip = registry.commit(files(registry, a=2))
    async with database.exclusive(SYNC_LOCK):
        async with database.transaction() as connection:
            request = await add_request(connection, "webhook")
            await begin_run(database, "a command that is killed")
            await execute(
                connection,
                "UPDATE sync_requests SET run_id ="
                " (SELECT id FROM sync_runs WHERE finished_at IS NULL) WHERE run_id IS NULL",
            )
        async with asyncio.timeout(30):
            await seen.wait()
    answer = None
    for _ in range(200):
        if (answer := await answer_to(database, request)) is not None:
            break
        await asyncio.sleep(0.05)
    assert answer is not None
    assert (answer.error, answer.new_commit) == (None, tip)


async def test_the_last_run_is_the_last_also_when_the_clock_was_set_back(
    database: Database, registry: Registry, sync: RegistrySync, tmp_path: Path
) -> None:
    registry.commit(files(registry, a=1))
    registry.directory.rename(tmp_path / "away")
    failed = await sync.run("test")
    (tmp_path / "away").rename(registry.directory)
    await database.execute(
        "UPDATE sync_runs SET started_at = started_at + interval '1 day',"
        " finished_at = finished_at + interval '1 day'"
    )
    run = await sync.run("test")
    runs = await list_runs(database, limit=5, before=None)
    assert [r.id for r in runs] == [run.id, failed.id]
    assert [r.id for r in await list_runs(database, limit=5, before=str(run.id))] == [failed.id]
    assert (await last_runs(database))["error"] is None


@pytest.mark.usefixtures("watching")
async def test_somebody_who_asks_gets_the_answer_of_a_run_that_began_later(
    database: Database, registry: Registry
) -> None:
    registry.commit(files(registry, a=1))
    run = await ask_for_sync(database, "test", timeout_seconds=30)
    assert run.new_commit == registry.tip()
    registry.commit(files(registry, a=2))
    assert (await ask_for_sync(database, "test", timeout_seconds=30)).changed == ["a"]


@pytest.mark.usefixtures("watching")
async def test_many_who_ask_at_once_share_few_runs(database: Database, registry: Registry) -> None:
    registry.commit(files(registry, a=1))
    await ask_for_sync(database, "test", timeout_seconds=30)
    runs = await asyncio.gather(
        *(ask_for_sync(database, f"asker {n}", timeout_seconds=30) for n in range(20))
    )
    assert all(run.new_commit == registry.tip() for run in runs)
    assert len({run.id for run in runs}) <= 3


@pytest.mark.usefixtures("watching")
async def test_a_failed_sync_is_never_a_success_for_who_asked(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    registry.commit(files(registry, a=1))
    await ask_for_sync(database, "test", timeout_seconds=30)
    registry.directory.rename(tmp_path / "elsewhere")
    with pytest.raises(RegistryError):
        await ask_for_sync(database, "test", timeout_seconds=30)


async def test_without_a_sync_process_the_asker_is_told(database: Database) -> None:
    with pytest.raises(SyncTimeout, match="registry sync --watch"):
        await ask_for_sync(database, "test", timeout_seconds=0.2)


async def test_two_sync_processes_take_turns(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror
) -> None:
    registry.commit(files(registry, a=1))
    both = [RegistrySync(database, queue, make_mirror()) for _ in range(2)]
    runs = await asyncio.gather(*(sync.run("test") for sync in both))
    assert [run.error for run in runs] == [None, None]
    assert sorted(len(run.added) for run in runs) == [0, 1]


async def test_a_mirror_that_lost_one_file_withdraws_no_model(
    database: Database, registry: Registry, sync: RegistrySync, make_mirror: MakeMirror
) -> None:
    registry.commit(files(registry, a=1, b=1))
    await sync.run("test")
    mirror = make_mirror()
    for pack in mirror.directory.glob("objects/pack/*.pack"):
        loose = pack.rename(tmp_pack := mirror.directory / "moved.pack")
        registry.git(
            "--git-dir", str(mirror.directory), "unpack-objects", "-q", stdin=loose.read_bytes()
        )
        tmp_pack.unlink()
    for leftover in mirror.directory.glob("objects/pack/*"):
        leftover.unlink()
    publication = await latest_publication(database)
    assert publication is not None
    (lost,) = (e.oid for e in mirror.entries(publication.revision) if e.path == b"models/b.toml")
    (mirror.directory / "objects" / lost[:2] / lost[2:]).unlink()
    registry.commit(files(registry, a=2, b=1))
    run = await sync.run("test")
    assert (run.error, run.removed) == (None, [])
    assert await served(database) == {"a": 2, "b": 1}


def dense(name: str, value: str = "ab") -> str:
    """Text of a good spec that is as large as may be and holds as many values as it can."""
    return f'[model]\nclass = "{name}"\nvalues = [' + f'"{value}",' * 52_000 + "]\n"


async def test_memory_stays_flat_however_much_a_commit_holds(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, small=1))
    await sync.run("test")
    registry.commit({f"m{n}.toml": dense(f"m{n}") for n in range(25)})
    with at_most_grown_by(60_000_000):
        run = await sync.run("test")
    assert (run.error, len(run.added)) == (None, 25)


async def test_what_is_told_of_changed_keys_is_bounded(
    database: Database, registry: Registry, sync: RegistrySync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dissmodel_platform.registry.publishing._MOST_KEYS", 150)
    long = "k" * 10_000

    def wide(value: int) -> str:
        return f"[model]\n[model.{long}]\n" + "".join(f"a{n} = {value}\n" for n in range(120))

    for value in (1, 2):
        registry.commit({f"m{n}.toml": wide(value) for n in range(3)})
        run = await sync.run("test")
    assert run.changed == ["m0", "m1", "m2"]
    assert [len(keys) for keys in run.changed_keys.values()] == [100, 50]
    assert max(len(key) for keys in run.changed_keys.values() for key in keys) == 200


async def test_an_empty_catalogue_is_no_large_one(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, a=1), others=[(registry.FILE, b"catalog.yaml", b"")])
    await sync.run("test")
    assert [p["code"] for p in (await list_problems(database)).problems] == ["no-sources"]


async def test_a_published_commit_outlives_a_force_push_and_tidying(
    database: Database,
    registry: Registry,
    sync: RegistrySync,
    make_mirror: MakeMirror,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dissmodel_platform.registry.mirror._PACKS_BEFORE_TIDYING", 1)
    published = registry.commit(files(registry, a=1))
    await sync.run("test")
    registry.commit(files(registry, a=2), parent=None)
    assert (await sync.run("test")).outcome == "published"
    mirror = make_mirror()
    mirror.maintain()
    (entry,) = mirror.entries(Revision(published))
    (blob,) = mirror.read_blobs([entry.oid], max_bytes=1000)
    assert blob.data


async def test_publishing_puts_many_packs_into_one(
    registry: Registry,
    sync: RegistrySync,
    make_mirror: MakeMirror,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dissmodel_platform.registry.mirror._PACKS_BEFORE_TIDYING", 3)
    for value in range(3):
        registry.commit(files(registry, a=value))
        await sync.run("test")
    assert len(list(make_mirror().directory.glob("objects/pack/*.pack"))) == 1


async def test_a_mirror_that_is_gone_gets_back_what_the_database_knows(
    registry: Registry, sync: RegistrySync, make_mirror: MakeMirror
) -> None:
    published = registry.commit(files(registry, a=1))
    await sync.run("test")
    registry.commit(files(registry, a=2), parent=None)
    shutil.rmtree(make_mirror().directory)
    assert (await sync.run("test")).changed == ["a"]
    assert make_mirror().has_commit(Revision(published))


async def test_the_remote_is_looked_at_when_the_interval_is_over(
    database: Database, registry: Registry, sync: RegistrySync
) -> None:
    registry.commit(files(registry, a=1))
    stop = asyncio.Event()
    task = asyncio.create_task(sync.watch(stop, interval_seconds=0.2))
    try:
        async with asyncio.timeout(30):
            while await latest_publication(database) is None:
                await asyncio.sleep(0.01)
            registry.commit(files(registry, a=2))
            while await served(database) != {"a": 2}:
                await asyncio.sleep(0.01)
    finally:
        stop.set()
        await task
    runs = await list_runs(database, limit=1000, before=None)
    assert [run.trigger for run in runs if run.outcome == "published"] == ["interval", "start"]
