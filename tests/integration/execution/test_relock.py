"""New locks of published models, made by a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.errors import ExecutorModuleMissing
from dissmodel_platform.registry.spec import parse_spec
from dissmodel_platform.services.build_requests import ask_for_relock
from dissmodel_platform.services.locks import lock_of_model
from dissmodel_platform.services.submit import RunRequest
from dissmodel_platform.services.sync import RegistrySync
from dissmodel_platform.services.sync_settings import open_mirror
from dissmodel_platform.services.worker import Worker
from dissmodel_platform.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def lab(empty_lab: Any) -> Any:
    """Let a test's locks be its own."""
    return empty_lab


@pytest.fixture
def source(repositories: Any, tmp_path: Path) -> Path:
    """Clone a package, whose branch the test may move."""
    clone = tmp_path / "behaviours"
    repositories.git(
        tmp_path, "clone", "--quiet", str(repositories.repository("behaviours")), str(clone)
    )
    return clone


@pytest.fixture
async def published(lab: Any, lab_settings: Settings, repositories: Any, source: Path) -> Settings:
    """Publish the model ``draws`` of that branch; returns the settings of its platform."""
    registry, home = source.with_name("configs"), source.with_name("home")
    (registry / "models").mkdir(parents=True)
    (registry / "models" / "draws.toml").write_text(
        f'[model]\nclass = "draws"\npackage = "git+{source.as_uri()}@main"\n'
    )
    repositories.git(registry, "init", "--quiet", "--initial-branch=main")
    repositories.commit(registry, "published")
    home.mkdir()
    (home / "packages").symlink_to(lab_settings.packages_directory.resolve())
    settings = lab_settings.model_copy(
        update={"home": home, "configs_repo": registry.as_uri(), "allow_local_registry": True}
    )
    run = await RegistrySync(lab.database, lab.parts.queue, open_mirror(settings)).run("a test")
    assert (run.error, run.added) == (None, ["draws"])
    return settings


@asynccontextmanager
async def working(lab: Any, settings: Settings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    worker = Worker(lab.database, lab.parts.queue, lab.parts.store, settings)
    serving = asyncio.create_task(worker.serve(stop))
    try:
        yield
    finally:
        stop.set()
        await serving


async def test_later_runs_use_the_new_lock_and_a_reproduction_the_old_one(
    lab: Any, published: Settings, repositories: Any, source: Path
) -> None:
    async def run() -> Any:
        made = await lab.submitter.submit("draws", RunRequest(""), submitted_by="a test")
        return await lab.ended(made)

    async def relock() -> Any:
        return await ask_for_relock(
            lab.database, lab.parts.queue, "draws", None, requested_by="a test",
            timeout_seconds=60,
        )  # fmt: skip

    old_commit = repositories.git(source, "rev-parse", "HEAD")
    async with working(lab, published):
        first = await run()
        (source / "behaviours" / "news.py").write_text("x = 1\n")
        new_commit = repositories.commit(source, "v0.2.0")
        assert (await run()).outcome["package_commit"] == old_commit, (
            "the branch alone is no reason"
        )

        found = await relock()
        (change,) = found.changes.changed
        assert (change.before.commit, change.after.commit) == (old_commit, new_commit)
        second = await run()
        assert second.status == "completed", await lab.log(second)
        assert second.outcome["package_commit"] == new_commit
        assert second.outcome["lock_sha256"] == found.new.sha256

        equal = await relock()
        assert equal.changes.is_empty
        assert equal.old == equal.new == found.new

    again = await lab.reproduce(first)
    assert again.outcome["lock_sha256"] == first.outcome["lock_sha256"] == found.old.sha256
    assert again.outcome["package_commit"] == old_commit


async def test_a_new_lock_whose_package_does_not_work_never_counts(
    lab: Any, published: Settings, repositories: Any, source: Path
) -> None:
    text = (source.with_name("configs") / "models" / "draws.toml").read_text()
    spec = parse_spec("models/draws.toml", text).spec
    assert spec is not None
    working = await lab.parts.preparer.prepare(spec)
    (source / "behaviours" / "__init__.py").write_text("raise RuntimeError('half done')\n")
    repositories.commit(source, "v0.2.0")
    with pytest.raises(ExecutorModuleMissing, match="half done"):
        await lab.parts.preparer.relock(spec)
    assert (await lab.parts.preparer.prepare(spec)) == working
    kept = await lock_of_model(lab.database, "draws", None)
    assert kept.stored.lock == working.lock
    assert kept.model.environment["state"] == "ready"
