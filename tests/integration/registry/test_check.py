"""The check of a registry: the code of the sync and of a run, on a work tree as it stands."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dissmodel_platform.errors import InvalidInput, RegistryError
from dissmodel_platform.registry.snapshot import read_models, read_snapshot
from dissmodel_platform.services.check import CheckRequest, check_registry
from dissmodel_platform.services.check_report import CheckReport, FileReport, Step, Verdict
from dissmodel_platform.settings import load_settings
from tests.acceptance.support import commit, git, processes_below
from tests.processes import at_most_grown_by, wait_until

PACKAGES = Path(__file__).parents[2] / "packages"
SPEC = '[model]\nclass = "tiny_land"\n'

OK, FAULT, NOT_DONE = Verdict.OK, Verdict.FAULT, Verdict.NOT_DONE

Check = Callable[..., Awaitable[CheckReport]]


@pytest.fixture
def tiny_land(repositories) -> str:
    """Publish the package of the tests as a tag of a repository."""
    return f"tiny-land @ {repositories.requirement('tiny-land')}"


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    place = tmp_path / "registry"
    commit(place, {"models/a.toml": SPEC, "README.md": "Models"})
    return place


@pytest.fixture
def check(tmp_path: Path, packages_directory: Path) -> Check:
    """Check a registry; nothing that was started is left afterwards."""

    before = processes_below(packages_directory).keys()

    async def run(
        directory: Path, base: str | None = None, *, builds: bool = False, allow_local: bool = True
    ) -> CheckReport:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        request = CheckRequest(directory, base, builds, allow_local, packages_directory)
        try:
            return await check_registry(request, load_settings(), scratch, lambda line: None)
        finally:
            assert processes_below(tmp_path) == {}
            assert processes_below(packages_directory).keys() <= before
            shutil.rmtree(scratch)

    return run


def verdicts(file: FileReport) -> list[Verdict]:
    return [file.verdict(step) for step in Step]


def codes(report: CheckReport) -> list[tuple[str, str, int | None]]:
    return [(f.problem.path, f.problem.code, f.problem.line) for f in report.findings]


def paths(report: CheckReport) -> list[str]:
    return [file.path for file in report.files]


pytestmark = pytest.mark.anyio


class TestFiles:
    """Without installing anything."""

    async def test_a_good_registry_is_good(self, registry, check) -> None:
        commit(registry, {"catalog.yaml": "sources: {}\n"})
        report = await check(registry)
        assert (report.ok, paths(report)) == (True, ["catalog.yaml", "models/a.toml"])
        assert verdicts(report.file("models/a.toml")) == [OK] + [NOT_DONE] * 4
        assert report.head == git(registry, "rev-parse", "HEAD")
        assert report.base is None

    async def test_faults_have_their_place(self, registry, check) -> None:
        (registry / "models/bad.toml").write_text("[model]\nclass = 1\n")
        (registry / "models/worse.toml").write_text("[model\n")
        (registry / "catalog.yaml").write_text("sources:\n  grid: {driver: x}\n")
        report = await check(registry)
        assert codes(report) == [
            ("catalog.yaml", "invalid-source", 2),
            ("models/bad.toml", "invalid-type", 2),
            ("models/worse.toml", "invalid-toml", 1),
        ]
        assert (report.ok, report.faults, report.warnings) == (False, 3, 0)

    async def test_a_source_that_cannot_be_stored_is_a_fault(self, registry, check) -> None:
        sources = [f"  s{n}: {{driver: x, args: {{urlpath: 's3://a/b', v: {value}}}}}\n"
                   for n, value in enumerate(("0x" + "f" * 5000, '"\\ud800"', "1"))]  # fmt: skip
        (registry / "catalog.yaml").write_text("sources:\n" + "".join(sources))
        assert codes(await check(registry)) == [
            ("catalog.yaml", "invalid-source", 2),
            ("catalog.yaml", "invalid-source", 3),
        ]

    async def test_warnings_fail_nothing(self, registry, check) -> None:
        (registry / "models/b.toml").write_text('[model]\nname = "c"\nclass = "c"\n')
        report = await check(registry)
        assert (report.ok, report.warnings) == (True, 1)
        assert report.file("models/b.toml").verdict(Step.SPEC) is Verdict.WARNING

    async def test_what_a_listing_refuses_is_a_fault(self, registry, check) -> None:
        (registry / "models/A.toml").write_text(SPEC)
        (registry / "models/link.toml").symlink_to("a.toml")
        (registry / "models/empty.toml").write_text("")
        (registry / "catalog.yaml").symlink_to("models/a.toml")
        report = await check(registry)
        assert codes(report) == [
            ("catalog.yaml", "symbolic-link", None),
            ("models/A.toml", "name-clash", None),
            ("models/a.toml", "name-clash", None),
            ("models/empty.toml", "empty-file", None),
            ("models/link.toml", "symbolic-link", None),
        ]

    async def test_it_finds_what_a_sync_finds(self, registry, check, tmp_path) -> None:
        """The same commit, through a mirror as a server has it."""
        from dissmodel_platform.registry.mirror import Mirror

        commit(
            registry,
            {
                "models/bad.toml": "[model]\nclass = 1\n[model.bands]\nx = true\n",
                "models/below/c.toml": SPEC,
                "models/notes.toml.txt": "",
                "models/ü.toml": SPEC,
                "models/lfs.toml": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            },
        )
        report = await check(registry)
        mirror = Mirror(tmp_path / "mirror.git", str(registry), None, allow_local=True)
        change = read_snapshot(mirror, mirror.update().revision, None)
        expected = [*change.problems]
        for reading in read_models(mirror, change):
            expected += reading.parsed.problems
        found = [finding.problem for finding in report.findings]
        assert sorted(found, key=repr) == sorted(expected, key=repr)
        assert len(found) == 6

    async def test_the_files_are_not_all_in_memory_at_once(self, registry, check) -> None:
        values = "values = [" + '"ab",' * 52_000 + "]\n"
        commit(registry, {f"models/m{n}.toml": f"{SPEC}{values}" for n in range(25)})
        with at_most_grown_by(70_000_000):
            report = await check(registry)
        assert len(report.files) == 26

    async def test_a_damaged_file_is_told_of_as_the_owners(self, registry, check) -> None:
        blob = git(registry, "rev-parse", "HEAD:models/a.toml")
        damaged = registry / ".git/objects" / blob[:2] / blob[2:]
        damaged.chmod(0o600)
        damaged.write_bytes(damaged.read_bytes()[:-8])
        with pytest.raises(RegistryError, match=r"cannot be read: .*git fsck") as caught:
            await check(registry)
        assert "mirror" not in str(caught.value)

    async def test_a_file_that_git_cannot_take_is_a_fault_and_not_removed(
        self, registry, check
    ) -> None:
        commit(registry, {"models/b.toml": SPEC, "models/c.toml": SPEC})
        with (registry / "models/b.toml").open("wb") as huge:
            huge.truncate(3 * 1024**3)
        git(registry, "init", "--quiet", "models/c.toml.d")
        report = await check(registry, "HEAD")
        assert codes(report) == [("models/b.toml", "too-large", None)]
        assert "3221225472 bytes" in next(report.findings).problem.message
        assert report.removed == []

    async def test_a_removed_file_s_name_cannot_write_on_the_terminal(
        self, registry, check
    ) -> None:
        commit(registry, {"models/\x1b[31mred\n.toml": SPEC})
        commit(registry, {"models/\x1b[31mred\n.toml": None})
        assert (await check(registry, "HEAD~1")).removed == ["models/\\x1b[31mred\\n.toml"]

    async def test_a_registry_without_models_is_a_fault(self, registry, check) -> None:
        git(registry, "rm", "-r", "--quiet", "models")
        report = await check(registry)
        assert codes(report) == [("models", "no-models-directory", None)]

    async def test_a_registry_that_lacks_a_file_s_content_is_told_apart(
        self, registry, check
    ) -> None:
        commit(registry, {"models/a.toml": SPEC + "[model.example]\n"})
        blob = git(registry, "rev-parse", "HEAD:models/a.toml")
        (registry / ".git/objects" / blob[:2] / blob[2:]).unlink()
        with pytest.raises(RegistryError, match=r"lacks the content of models/a\.toml"):
            await check(registry)

    async def test_a_registry_that_is_damaged_is_told_apart(self, registry, check) -> None:
        git(registry, "switch", "--quiet", "--create", "topic")
        commit(registry, {"models/b.toml": SPEC})
        tree = git(registry, "rev-parse", "main:models")
        (registry / ".git/objects" / tree[:2] / tree[2:]).unlink()
        with pytest.raises(RegistryError, match=r"cannot be read: .*git fsck") as caught:
            await check(registry, "main")
        assert "mirror" not in str(caught.value)


class TestBase:
    """Only what a branch changes."""

    @pytest.fixture
    def branch(self, registry: Path) -> Path:
        """Leave ``main`` for a branch; ``main`` goes on."""
        files = {f"models/{name}.toml": SPEC for name in "bcdef"}
        files |= {"models/broken.toml": "[model\n", "catalog.yaml": "sources: {}\n"}
        commit(registry, files)
        (registry / "models/old.toml").symlink_to("a.toml")
        commit(registry, {})
        git(registry, "switch", "--quiet", "--create", "topic")
        git(registry, "switch", "--quiet", "main")
        commit(registry, {"models/others.toml": "[model\n"})
        git(registry, "switch", "--quiet", "topic")
        return registry

    async def test_a_branch_that_changes_nothing(self, branch, check) -> None:
        report = await check(branch, "main")
        assert (paths(report), report.removed, report.ok) == ([], [], True)
        assert report.base == git(branch, "merge-base", "main", "HEAD")

    async def test_what_changed_is_checked_committed_or_not(self, branch, check) -> None:
        commit(branch, {"models/new.toml": SPEC, "models/b.toml": None})
        (branch / "models/c.toml").write_text("[model]\nclass = 1\n")
        (branch / "catalog.yaml").write_text("sources: []\n")
        report = await check(branch, "main")
        assert paths(report) == ["catalog.yaml", "models/c.toml", "models/new.toml"]
        assert report.removed == ["models/b.toml"]
        assert codes(report) == [
            ("catalog.yaml", "no-sources", None),
            ("models/c.toml", "invalid-type", 2),
        ]

    async def test_faults_that_the_base_has_are_not_the_branch_s(self, branch, check) -> None:
        commit(branch, {"models/new.toml": SPEC})
        assert (await check(branch, "main")).ok
        assert not (await check(branch)).ok

    async def test_a_fault_that_the_branch_gives_to_an_old_file_is(self, branch, check) -> None:
        commit(branch, {"models/B.toml": SPEC})
        report = await check(branch, "main")
        assert codes(report) == [
            ("models/B.toml", "name-clash", None),
            ("models/b.toml", "name-clash", None),
        ]

    async def test_a_removed_catalogue_is_listed(self, branch, check) -> None:
        commit(branch, {"catalog.yaml": None})
        assert (await check(branch, "main")).removed == ["catalog.yaml"]

    async def test_a_branch_that_a_server_would_hold_gets_a_warning(self, branch, check) -> None:
        commit(branch, {f"models/{name}.toml": None for name in "abcde"})
        report = await check(branch, "main")
        assert (report.ok, len(report.removed)) == (True, 5)
        assert codes(report) == [("models", "would-be-held", None)]

    async def test_an_unknown_base_is_refused(self, branch, check) -> None:
        with pytest.raises(InvalidInput, match="origin/main"):
            await check(branch, "origin/main")


class TestExampleInput:
    """What can be said of an example before anything is run."""

    @pytest.mark.parametrize(
        ("address", "code", "sentence"),
        [
            ("data/none.txt", "invalid-example", "commit it"),
            ("catalog:gird", "invalid-example", "did you mean 'grid'?"),
            ("catalog:ours", "example-not-run", "a platform's own store"),
            ("s3://dissmodel-inputs/inputs/a/b.txt", "example-not-run", "a platform's own store"),
        ],
    )
    async def test_an_input_that_is_not_there(
        self, registry, check, address, code, sentence
    ) -> None:
        commit(
            registry,
            {
                "models/a.toml": f'{SPEC}[model.example]\ninput = "{address}"\n',
                "catalog.yaml": "sources:\n"
                "  grid: {driver: x, args: {urlpath: 'https://example.org/grid.zip'}}\n"
                "  ours: {driver: x, args: {urlpath: 's3://dissmodel-inputs/inputs/a/b'}}\n",
            },
        )
        report = await check(registry)
        assert codes(report) == [("models/a.toml", code, 4)]
        assert sentence in next(report.findings).problem.message
        assert report.ok is (code == "example-not-run")

    async def test_an_input_that_is_there(self, registry, check) -> None:
        commit(
            registry,
            {
                "models/a.toml": f'{SPEC}[model.example]\ninput = "data/a.txt"\n',
                "models/b.toml": f'{SPEC}[model.example]\ninput = "catalog:grid"\n',
                "catalog.yaml": "sources:\n"
                "  grid: {driver: x, args: {urlpath: 'https://example.org/grid.zip'}}\n",
                "data/a.txt": "a",
            },
        )
        assert codes(await check(registry)) == []


class TestModels:
    """With real packages, built, imported and run."""

    async def test_each_model_is_taken_as_far_as_it_goes(self, registry, check, tiny_land) -> None:
        """One check, since the package is installed once for all of them."""

        def spec(class_name: str, more: str = "") -> str:
            return f'[model]\npackage = "{tiny_land}"\nclass = "{class_name}"\n{more}'

        commit(
            registry,
            {
                "data/land.txt": "dry land\n",
                "models/a.toml": None,
                "models/fits.toml": spec(
                    "tiny_land",
                    '[model.example]\ninput = "data/land.txt"\nparameters = {years = 2}\n'
                    "[model.parameters]\nyears = 1\n",
                ),
                "models/bare.toml": spec("tiny_land"),
                "models/fails.toml": spec("flooded", "[model.example]\n"),
                "models/misspelt.toml": spec("tiny_lnd", "[model.example]\n"),
                "models/classless.toml": f'[model]\npackage = "{tiny_land}"\n',
                "models/unfit.toml": spec("unfit", 'executor_module = "tiny_land.unfit"\n'),
                "models/other.toml": spec("tiny_land", 'executor_module = "tiny_land.unfit"\n'),
                "models/broken.toml": spec(
                    "tiny_land", 'executor_module = "tiny_land.unimportable"\n'
                ),
                "models/absent.toml": '[model]\nclass = "x"\n'
                f'package = "{tiny_land.replace("v0.1.0", "v9")}"\n',
                "models/wrong.toml": spec("tiny_land", '[model.example]\ninput = "nowhere.txt"\n'),
            },
        )
        report = await check(registry, builds=True)
        assert {file.path[7:-5]: verdicts(file) for file in report.files} == {
            "absent": [OK, FAULT, NOT_DONE, NOT_DONE, NOT_DONE],
            "bare": [OK, OK, OK, OK, NOT_DONE],
            "broken": [OK, OK, FAULT, NOT_DONE, NOT_DONE],
            "classless": [Verdict.WARNING, OK, FAULT, NOT_DONE, NOT_DONE],
            "fails": [OK, OK, OK, OK, FAULT],
            "fits": [OK, OK, OK, OK, OK],
            "misspelt": [OK, OK, FAULT, NOT_DONE, NOT_DONE],
            "other": [OK, OK, OK, Verdict.WARNING, NOT_DONE],
            "unfit": [OK, OK, OK, FAULT, NOT_DONE],
            "wrong": [OK, OK, OK, OK, FAULT],
        }
        said = {f.problem.path[7:-5]: f for f in report.findings if f.problem.is_error}
        places = {name: finding.problem.line for name, finding in said.items()}
        assert places == {
            "absent": 3,
            "broken": 4,
            "classless": 1,
            "fails": 4,
            "misspelt": 3,
            "unfit": 3,
            "wrong": 5,
        }
        assert "no such version" in said["absent"].problem.message
        assert "No module named 'a_library_that_nobody_declared'" in said["broken"].problem.message
        assert "did you mean 'tiny_land'?" in said["misspelt"].problem.message
        message = said["classless"].problem.message
        assert "class is missing" in message
        assert "'endless', 'flooded', 'tiny_land'" in message
        assert "Executor 'unfit' fails dissmodel's contract" in said["unfit"].problem.message
        assert "under 100% water" in said["fails"].problem.message
        assert "ValueError: the land is under 100% water" in said["fails"].output

        fits = report.file("models/fits.toml")
        assert fits.example is not None
        assert (fits.example.status, fits.example.last_line) == (
            "completed",
            "wrote dry land dry land",
        )
        assert 0 < fits.example.seconds < fits.seconds < report.seconds
        assert fits.environment["package_version"] == "0.1.0"
        assert len(fits.environment["package_commit"]) == 40
        failed = report.file("models/fails.toml").example
        assert failed is not None
        assert failed.status == "failed"

    async def test_a_package_that_a_server_would_not_build(
        self, registry, check, repositories
    ) -> None:
        broken = repositories.requirement("contract-broken")
        commit(
            registry,
            {"models/a.toml": f'[model]\nclass = "contract-broken"\npackage = "{broken}"\n'},
        )
        report = await check(registry, builds=True)
        assert verdicts(report.file("models/a.toml")) == [OK, OK, OK, FAULT, NOT_DONE]
        assert codes(report) == [("models/a.toml", "package-unusable", 3)]

    async def test_local_packages_need_to_be_allowed(self, registry, check, tiny_land) -> None:
        path = PACKAGES / "tiny-land"
        commit(
            registry,
            {
                "models/a.toml": f'[model]\nclass = "tiny_land"\npackage = "{tiny_land}"\n',
                "models/b.toml": f'[model]\nclass = "tiny_land"\npackage = "{path}"\n',
            },
        )
        report = await check(registry, builds=True, allow_local=False)
        assert codes(report) == [
            ("models/a.toml", "local-package", 3),
            ("models/b.toml", "local-package", 3),
        ]
        assert "--allow-local" in next(report.findings).problem.message

    async def test_a_package_under_development_is_tried_as_it_is(
        self, registry, check, tmp_path
    ) -> None:
        package = tmp_path / "tiny-land"
        shutil.copytree(PACKAGES / "tiny-land", package)
        text = f'[model]\nclass = "tiny_land"\npackage = "{package}"\n[model.example]\n'
        commit(registry, {"models/a.toml": text})
        source = package / "tiny_land/__init__.py"
        for word in ("nothing", "a marsh"):
            source.write_text(source.read_text().replace('"nothing"', f'"{word}"'))
            report = await check(registry, builds=True)
            example = report.file("models/a.toml").example
            assert example is not None
            assert example.last_line == f"wrote {word}"

    async def test_an_example_that_never_ends_is_ended(
        self, registry, check, tiny_land, monkeypatch
    ) -> None:
        monkeypatch.setenv("PLATFORM_RUN_TIMEOUT_SECONDS", "2")
        commit(registry, {"models/a.toml": endless(tiny_land)})
        report = await check(registry, builds=True)
        assert codes(report) == [("models/a.toml", "example-failed", 4)]
        assert "time limit of 2 s" in next(report.findings).problem.message

    @pytest.mark.parametrize("moment", ["building", "running"])
    async def test_a_cancelled_check_leaves_nothing(
        self, registry, check, tiny_land, repositories, packages_directory, tmp_path, moment
    ) -> None:
        """The fixture looks for processes; here, that it ends at all, and soon."""
        text = endless(tiny_land)
        if moment == "building":
            package = repositories.requirement("slow-build")
            text = f'[model]\nclass = "x"\npackage = "{package}"\n'
        commit(registry, {"models/a.toml": text})

        def has_come() -> bool:
            if moment == "running":
                return bool(list(tmp_path.rglob("outputs/running")))
            return "sleep 600" in processes_below(packages_directory).values()

        checking = asyncio.create_task(check(registry, builds=True))
        await asyncio.to_thread(wait_until, has_come, f"it is {moment}")
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(checking, 20)


def endless(package: str) -> str:
    return f'[model]\npackage = "{package}"\nclass = "endless"\n[model.example]\n'


async def test_a_package_outside_the_operators_list_is_found(
    check: Check, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(registry, {"models/b.toml": f'{SPEC}package = "git+https://evil.example/x@v1"\n'})
    assert (await check(registry)).ok
    monkeypatch.setenv("PLATFORM_PACKAGE_SOURCES", "index")
    report = await check(registry)
    findings = report.file("models/b.toml").findings
    found = [(finding.problem.code, finding.problem.line) for finding in findings]
    assert (report.ok, found) == (False, [("package-not-allowed", 3)])
