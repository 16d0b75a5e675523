"""Inputs of every kind become local files of the run; nothing else is read, and no more."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest

from dissmodel_platform.errors import InvalidInput, ObjectNotFound, StorageError
from dissmodel_platform.execution import staging
from dissmodel_platform.execution.input_cache import InputCache
from dissmodel_platform.execution.input_rules import InputRules
from dissmodel_platform.execution.references import InputReference, SideFile, StagedInput
from dissmodel_platform.execution.staging import Stager
from dissmodel_platform.storage.backend import open_bucket
from dissmodel_platform.storage.objects import ObjectStore, open_object_store
from dissmodel_platform.types import Sha256

pytestmark = pytest.mark.anyio

SHAPEFILE = {"grid.shp": "shapes", "grid.shx": "index", "grid.dbf": "table", "grid.prj": "crs"}


def hash_of(text: str) -> Sha256:
    return Sha256(hashlib.sha256(text.encode()).hexdigest())


class Bench:
    """Stages inputs into runs of its own, without a database."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shared = directory / "shared"
        self.shared.mkdir()
        self.cache = InputCache(directory / "inputs")
        self.store = open_object_store(None, directory / "objects")
        self.rules: dict[str, Any] = {"max_bytes": 10**6, "directories": (self.shared,)}
        self.runs = 0

    def stager(self, when_grown: Callable[[], None] | None = None) -> Stager:
        return Stager(self.store, self.cache, InputRules(**self.rules), when_grown)

    async def stage(self, *references: InputReference) -> list[StagedInput]:
        """Stage inputs and return what was staged, whose files are gone by then."""
        staged, _ = await self.read(*references)
        return staged

    async def read(
        self, *references: InputReference
    ) -> tuple[list[StagedInput], dict[str, list[str]]]:
        """Stage inputs; returns what was staged, and the texts of all files by name."""
        self.runs += 1
        run = self.directory / "runs" / str(self.runs)
        run.mkdir(parents=True)
        async with self.stager().staging(references, run) as staged:
            texts: dict[str, list[str]] = {}
            for path in sorted(run.glob("inputs/*/*")):
                texts.setdefault(path.name, []).append(path.read_text())
            assert {entry.path for entry in staged} == set(run.glob("inputs/*/*"))
        assert not list(run.glob("inputs/*/*"))
        return staged, texts

    async def keep(self, text: str) -> Sha256:
        path = self.directory / "kept"
        path.write_text(text)
        return (await self.store.put_file(path)).sha256


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(params=["web", "bucket", "directory"])
def serve(request: pytest.FixtureRequest, bench: Bench) -> Callable[[dict[str, str]], str]:
    """Return what puts files somewhere, each kind of place in turn, and says where that is."""
    base = str(bench.shared)
    if request.param == "web":
        website = request.getfixturevalue("website")
        base = website.url
        bench.rules["allow_private"] = True
    elif request.param == "bucket":
        bucket = request.getfixturevalue("s3_bucket").rpartition("/")[2]
        base = f"s3://{bucket}"
        bench.rules["buckets"] = frozenset({bucket})

    def put(files: dict[str, str]) -> str:
        for name, text in files.items():
            if request.param == "bucket":
                obstore.put(open_bucket(base), f"maps/{name}", text.encode())
            elif request.param == "web":
                (website.directory / name).write_text(text)
            else:
                (bench.shared / name).write_text(text)
        return f"{base}/maps" if request.param == "bucket" else base

    return put


Put = Callable[[dict[str, str]], str]


async def test_a_shapefile_brings_its_side_files_and_the_record_names_each(
    bench: Bench, serve: Put
) -> None:
    base = serve({**SHAPEFILE, "other.cpg": "not ours"})
    staged, texts = await bench.read(InputReference("input_dataset", f"{base}/grid.shp"))
    assert texts == {name: [text] for name, text in SHAPEFILE.items()}
    assert [entry.as_json() | {"media_type": None} for entry in staged] == [
        {"name": "input_dataset", "uri": f"{base}/grid.shp", "sha256": hash_of("shapes"),
         "size_bytes": 6, "media_type": None},
        *({"name": f"input_dataset{suffix}", "uri": f"{base}/grid{suffix}",
           "sha256": hash_of(text), "size_bytes": len(text), "media_type": None,
           "side_file_of": "input_dataset"}
          for suffix, text in ((".shx", "index"), (".dbf", "table"), (".prj", "crs"))),
    ]  # fmt: skip
    for entry in staged:
        assert await bench.store.exists(entry.sha256), "what was read is kept for reproduction"


async def test_a_shapefile_without_what_it_needs_is_a_sentence(bench: Bench, serve: Put) -> None:
    base = serve({"half.shp": "shapes", "half.shx": "index", "half.prj": "crs"})
    with pytest.raises(InvalidInput, match=r"half\.shp has no \.dbf beside it"):
        await bench.stage(InputReference("input_dataset", f"{base}/half.shp"))


async def test_a_zip_stays_a_zip(bench: Bench, serve: Put) -> None:
    base = serve({"grid.zip": "PK", **SHAPEFILE})
    _, texts = await bench.read(InputReference("input_dataset", f"{base}/grid.zip"))
    assert texts == {"grid.zip": ["PK"]}


async def test_a_checksum_is_verified_and_other_content_is_kept_nowhere(
    bench: Bench, serve: Put
) -> None:
    uri = serve({"grid.tif": "right"}) + "/grid.tif"
    [entry] = await bench.stage(InputReference("input_dataset", uri, None, hash_of("right")))
    assert entry.sha256 == hash_of("right")
    serve({"grid.tif": "wrong"})
    with pytest.raises(InvalidInput) as refused:
        await bench.stage(InputReference("input_dataset", uri, None, hash_of("right")))
    assert hash_of("right") in str(refused.value)
    assert hash_of("wrong") in str(refused.value)
    assert not await bench.store.exists(hash_of("wrong"))
    assert not list(bench.directory.glob(f"inputs/??/{hash_of('wrong')}"))


async def test_an_input_is_read_anew_for_each_run_since_it_can_change(
    bench: Bench, serve: Put
) -> None:
    uri = serve({"grid.tif": "one"}) + "/grid.tif"
    assert (await bench.stage(InputReference("a", uri)))[0].sha256 == hash_of("one")
    serve({"grid.tif": "two"})
    assert (await bench.stage(InputReference("a", uri)))[0].sha256 == hash_of("two")


async def test_the_limit_holds_for_one_file_and_for_all_of_a_run(bench: Bench, serve: Put) -> None:
    base = serve({"a.tif": "a" * 600, "b.tif": "b" * 600, "c.tif": "c" * 1200})
    bench.rules["max_bytes"] = 1000
    known = await bench.keep("k" * 600)
    a, b, c = (InputReference(name, f"{base}/{name}.tif") for name in "abc")
    k = InputReference("k", "s3://dissmodel-inputs/inputs/a/k.tif", known)
    await bench.stage(a)
    await bench.stage(k)
    for together in ([c], [a, b], [k, a], [k, InputReference("l", "s3://b/l.tif", known)]):
        with pytest.raises(InvalidInput, match="PLATFORM_MAX_INPUT_BYTES"):
            await bench.stage(*together)
    assert not list(bench.directory.glob("inputs/.*")), "nothing half is left"


async def test_an_address_that_is_named_twice_is_staged_once(bench: Bench, serve: Put) -> None:
    uri = serve(SHAPEFILE) + "/grid.shp"
    staged, texts = await bench.read(InputReference("a", uri), InputReference("b", uri))
    assert texts["grid.shp"] == ["shapes"]
    assert [(entry.field, entry.side_file_of) for entry in staged] == [
        ("a", None), ("a.shx", "a"), ("a.dbf", "a"), ("a.prj", "a"),
        ("b", None), ("b.shx", "b"), ("b.dbf", "b"), ("b.prj", "b"),
    ]  # fmt: skip


async def test_known_content_brings_the_side_files_that_it_had_and_no_others(bench: Bench) -> None:
    main, side = await bench.keep("shapes"), await bench.keep("table")
    reference = InputReference(
        "a", "https://example.org/grid.shp", main,
        side_files=(SideFile(".dbf", "https://example.org/grid.dbf", side),),
    )  # fmt: skip
    _, texts = await bench.read(reference)
    assert texts == {"grid.shp": ["shapes"], "grid.dbf": ["table"]}


async def test_local_side_files_get_the_names_that_libraries_look_for(bench: Bench) -> None:
    for name in ("Grid.shp", "Grid.SHX", "Grid.dbf"):
        (bench.shared / name).write_text(name)
    _, texts = await bench.read(InputReference("a", f"file://{bench.shared}/Grid.shp"))
    assert texts == {"Grid.shp": ["Grid.shp"], "Grid.shx": ["Grid.SHX"], "Grid.dbf": ["Grid.dbf"]}


async def test_the_worker_checks_a_path_again(bench: Bench) -> None:
    (bench.shared / "grid.tif").write_text("inside")
    (bench.directory / "secret").write_text("outside")
    reference = InputReference("a", str(bench.shared / "grid.tif"))
    await bench.stage(reference)
    (bench.shared / "grid.tif").unlink()
    (bench.shared / "grid.tif").symlink_to(bench.directory / "secret")
    with pytest.raises(InvalidInput, match="PLATFORM_INPUT_DIRECTORIES"):
        await bench.stage(reference)
    bench.rules["directories"] = ()
    (bench.shared / "there.tif").write_text("inside")
    with pytest.raises(InvalidInput, match="PLATFORM_INPUT_DIRECTORIES"):
        await bench.stage(InputReference("a", str(bench.shared / "there.tif")))


async def test_the_worker_checks_buckets_and_addresses_again(bench: Bench, website: Any) -> None:
    (website.directory / "grid.tif").write_text("private")
    with pytest.raises(InvalidInput, match="private or local address"):
        await bench.stage(InputReference("a", f"{website.url}/grid.tif"))
    with pytest.raises(InvalidInput, match="is not served here"):
        await bench.stage(InputReference("a", "s3://another/grid.tif"))


async def test_a_server_that_is_ill_is_not_taken_for_one_without_side_files(
    bench: Bench, website: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.rules["allow_private"] = True
    for name, text in SHAPEFILE.items():
        (website.directory / name).write_text(text)
    real = staging.fetch_http

    async def ill(url: str, *arguments: Any, **options: Any) -> Any:
        if url.endswith(".prj"):
            raise InvalidInput("answered 503")
        return await real(url, *arguments, **options)

    monkeypatch.setattr(staging, "fetch_http", ill)
    with pytest.raises(InvalidInput, match="answered 503"):
        await bench.stage(InputReference("a", f"{website.url}/grid.shp"))


async def test_a_model_that_spoils_its_input_spoils_nothing_for_the_next_one(bench: Bench) -> None:
    sha256 = await bench.keep("as it was")
    reference = InputReference("a", "s3://dissmodel-inputs/inputs/a/grid.tif", sha256)
    async with bench.stager().staging([reference], bench.directory / "runs" / "x") as [entry]:
        seen = entry.path.stat()
        entry.path.chmod(0o644)
        entry.path.write_text("spoilt...")
        os.utime(entry.path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        entry.path.chmod(0o444)
        _, texts = await bench.read(reference)
        assert texts == {"grid.tif": ["as it was"]}
    _, texts = await bench.read(reference)
    assert texts == {"grid.tif": ["as it was"]}


async def test_known_content_is_fetched_once_by_all_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = await bench.keep("shared")
    fetched: list[str] = []
    real = ObjectStore.fetch

    async def counted(store: ObjectStore, sha256: Sha256, destination: Path) -> Any:
        fetched.append(sha256)
        return await real(store, sha256, destination)

    monkeypatch.setattr(ObjectStore, "fetch", counted)
    grown: list[None] = []
    references = [InputReference("a", "s3://dissmodel-inputs/inputs/a/grid.tif", sha256)]

    async def run(number: int) -> int:
        stager = bench.stager(lambda: grown.append(None))
        async with stager.staging(references, bench.directory / "runs" / f"r{number}") as [entry]:
            await asyncio.sleep(0.05)
            return entry.path.stat().st_ino

    inodes = await asyncio.gather(*(run(number) for number in range(6)))
    assert len(set(inodes)) == len(fetched) == len(grown) == 1


async def test_of_several_faults_one_is_told_and_the_rest_is_ended(bench: Bench) -> None:
    (bench.shared / "there.tif").write_text("there")
    references = [
        InputReference(name, str(bench.shared / f"{name}.tif"))
        for name in ("there", "none", "neither")
    ]
    with pytest.raises(InvalidInput, match="There is no file"):
        await bench.stage(*references)
    gone = InputReference("a", "s3://dissmodel-inputs/inputs/a/grid.tif", hash_of("gone"))
    with pytest.raises(InvalidInput, match="not in the store any more"):
        await bench.stage(gone)


async def test_a_store_that_breaks_off_is_the_machinery_s_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*_: object) -> None:
        raise StorageError("broke off")

    sha256 = await bench.keep("text")
    monkeypatch.setattr(ObjectStore, "fetch", breaks)
    with pytest.raises(StorageError, match="broke off"):
        await bench.stage(InputReference("a", "s3://dissmodel-inputs/inputs/a/x.tif", sha256))
    with pytest.raises(ObjectNotFound):
        await bench.store.size(hash_of("other"))
