"""Making models runnable: one lock for one request, states that say how it stands."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.environments.locking import LockMaker
from dissmodel_platform.environments.packages import request_for
from dissmodel_platform.environments.policy import PackagePolicy
from dissmodel_platform.environments.records import (
    EnvironmentRow,
    find_or_create,
    mark_building,
    mark_failed,
)
from dissmodel_platform.environments.store import EnvironmentStore
from dissmodel_platform.errors import (
    EnvironmentBuildError,
    PackageNotAllowed,
    PythonMismatch,
    VersionNotFound,
)
from dissmodel_platform.registry.spec import ModelSpec, parse_spec
from dissmodel_platform.services.prepare import Preparer
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


def spec(package: str, name: str = "growth") -> ModelSpec:
    parsed = parse_spec(f"models/{name}.toml", f'[model]\nclass = "x"\npackage = "{package}"\n')
    assert parsed.spec is not None
    return parsed.spec


async def row(lab: Any, name: str = "growth") -> Any:
    return await lab.database.fetch_one(
        "SELECT * FROM environments WHERE model_name = %(name)s", name=name
    )


async def test_a_prepared_model_is_ready_with_its_lock_and_versions(
    lab: Any, repositories: Any
) -> None:
    package = repositories.requirement("behaviours")
    prepared = await lab.parts.preparer.prepare(spec(package))
    known = await row(lab)
    assert (known["state"], known["error"], known["package"]) == ("ready", None, package)
    assert known["environment_key"] == prepared.environment.key
    assert known["lock_sha256"] == prepared.lock.sha256
    assert known["package_version"] == "0.1.0"
    assert known["dissmodel_version"].startswith("0.6.")
    commit = repositories.git(repositories.repository("behaviours"), "rev-parse", "v0.1.0")
    assert known["package_commit"] == prepared.provenance()["package_commit"] == commit


async def test_a_branch_that_moves_on_does_not_change_what_a_model_runs(
    lab: Any, repositories: Any, tmp_path: Path
) -> None:
    source = tmp_path / "behaviours"
    repositories.git(
        tmp_path, "clone", "--quiet", str(repositories.repository("behaviours")), str(source)
    )
    package = f"git+{source.as_uri()}@main"
    first = await lab.parts.preparer.prepare(spec(package))
    (source / "behaviours" / "growth.py").write_text("raise RuntimeError('another version')\n")
    repositories.commit(source, "v0.2.0")
    again = await lab.parts.preparer.prepare(spec(package))
    assert again == first


async def test_a_wheel_whose_bytes_are_wrong_is_fetched_anew(
    lab: Any, environments: EnvironmentStore, repositories: Any
) -> None:
    model = spec(repositories.requirement("behaviours"))
    prepared = await lab.parts.preparer.prepare(model)
    [wheel] = (wheel for wheel in prepared.lock.built if wheel.name == "behaviours")
    path = environments.built_wheel(wheel)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])
    shutil.rmtree(prepared.environment.directory)
    await lab.parts.preparer.prepare(model)
    assert path.read_bytes() == content


async def test_who_keeps_the_size_is_told_of_builds_only(
    lab: Any, environments: EnvironmentStore, repositories: Any
) -> None:
    told: list[str] = []
    preparer = Preparer(
        lab.database,
        environments,
        lab.parts.store,
        allow_local=True,
        when_built=lambda: told.append("built"),
    )
    model = spec(repositories.requirement("behaviours"))
    prepared = await lab.parts.preparer.prepare(model)
    await preparer.prepare(model)
    assert told == []
    shutil.rmtree(prepared.environment.directory)
    await preparer.prepare(model)
    assert told == ["built"]


async def test_several_who_prepare_one_model_at_once_get_one_lock(
    lab: Any, repositories: Any
) -> None:
    package = repositories.requirement("behaviours")
    prepared = await asyncio.gather(*(lab.parts.preparer.prepare(spec(package)) for _ in range(4)))
    assert len({each.lock.sha256 for each in prepared}) == 1
    assert len(await lab.database.fetch_all("SELECT sha256 FROM locks")) == 1


async def test_a_model_that_cannot_be_installed_says_why_and_is_tried_again(
    lab: Any, repositories: Any, tmp_path: Path
) -> None:
    source = tmp_path / "behaviours"
    repositories.git(
        tmp_path, "clone", "--quiet", str(repositories.repository("behaviours")), str(source)
    )
    package = f"git+{source.as_uri()}@v0.9.0"
    with pytest.raises(VersionNotFound):
        await lab.parts.preparer.prepare(spec(package))
    failed = await row(lab)
    assert (failed["state"], failed["lock_sha256"]) == ("failed", None)
    assert "no such version" in failed["error"]
    assert "couldn't find remote ref" in failed["output_tail"]
    repositories.git(source, "tag", "v0.9.0")  # the tag is pushed after all
    await lab.parts.preparer.prepare(spec(package))
    ready = await row(lab)
    assert (ready["state"], ready["error"], ready["output_tail"]) == ("ready", None, None)


async def test_an_output_that_postgresql_cannot_hold_is_kept_all_the_same(lab: Any) -> None:
    request = request_for("flood", None, allow_local=False)
    known: EnvironmentRow = await find_or_create(lab.database, "flood", request)
    await mark_building(lab.database, known)
    await mark_failed(lab.database, known, PythonMismatch("a\0b", "c\ud800"))
    failed = await row(lab, "flood")
    assert (failed["error"], failed["output_tail"]) == ("a\N{SYMBOL FOR NULL}b", "c?")


async def test_local_packages_are_refused_where_they_are_not_allowed(
    lab: Any, environments: EnvironmentStore, repositories: Any
) -> None:
    strict = Preparer(lab.database, environments, lab.parts.store, allow_local=False)
    for package in (repositories.requirement("behaviours"), "/srv/flood"):
        with pytest.raises(EnvironmentBuildError, match="PLATFORM_ALLOW_LOCAL_PACKAGES"):
            await strict.prepare(spec(package))


async def test_a_lock_with_a_package_outside_the_list_is_refused_before_anything_is_built(
    lab: Any, environments: EnvironmentStore, repositories: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = repositories.requirement("behaviours")
    allowed = await lab.parts.preparer.prepare(spec(package, "allowed"))
    policy = PackagePolicy.read(["index"])  # local sources are allowed, what others need is not
    strict = Preparer(lab.database, environments, lab.parts.store, allow_local=True, policy=policy)
    monkeypatch.setattr(LockMaker, "_build", lambda *_: pytest.fail("this was built"))
    with pytest.raises(PackageNotAllowed, match="it needs 'behaviours' from file:"):
        await strict.prepare(spec(package))
    refused = await row(lab)
    assert (refused["state"], refused["lock_sha256"]) == ("failed", None)
    assert "PLATFORM_PACKAGE_SOURCES" in refused["error"]
    with pytest.raises(PackageNotAllowed):  # a version that was locked before the list was
        await strict.prepare(spec(package, "allowed"))
    with pytest.raises(PackageNotAllowed):  # a reproduction
        await strict.prepare(spec(package, "allowed"), allowed.lock.sha256)
    with pytest.raises(PackageNotAllowed, match="'git"):
        await strict.prepare(spec("git+https://git.example.org/lab/flood@v1", "foreign"))


async def test_publishing_a_commit_has_the_environments_built_before_anybody_asks(
    lab: Any, repositories: Any, lab_settings: Settings, tmp_path: Path
) -> None:
    registry = tmp_path / "dissmodel-configs"
    (registry / "models").mkdir(parents=True)
    for name, package in (("growth", "behaviours"), ("broken", "wrong-python")):
        text = f'[model]\nclass = "growth"\npackage = "{repositories.requirement(package)}"\n'
        (registry / "models" / f"{name}.toml").write_text(text)
    repositories.git(registry, "init", "--quiet", "--initial-branch=main")
    repositories.commit(registry, "published")
    settings = lab_settings.model_copy(
        update={
            "home": tmp_path / "home",
            "configs_repo": registry.as_uri(),
            "allow_local_registry": True,
        }
    )
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "packages").symlink_to(lab_settings.packages_directory.resolve())
    run = await RegistrySync(lab.database, lab.parts.queue, open_mirror(settings)).run("a test")
    assert (run.error, sorted(run.added)) == (None, ["broken", "growth"])

    stop = asyncio.Event()
    worker = Worker(lab.database, lab.parts.queue, lab.parts.store, settings)
    serving = asyncio.create_task(worker.serve(stop))

    async def states() -> bool:
        rows = await lab.database.fetch_all("SELECT model_name, state FROM environments")
        found = {each["model_name"]: each["state"] for each in rows}
        return found == {"growth": "ready", "broken": "failed"}

    await lab.until(states)
    stop.set()
    await serving
    grid = await lab.upload(json.dumps([1.0]), "grid.json")
    experiment = await lab.submitter.submit("growth", RunRequest(grid), submitted_by="a test")
    await lab.runner().run(experiment.id)
    ended = await lab.get(experiment)
    assert (ended.status, ended.submission.model_commit) == ("completed", run.new_commit)
