"""The object store that a run sees: its own directory and its staged inputs, nothing else."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.execution.harness.interception import OUTPUTS_BUCKET, RunStore

ID = "0123456789abcdef0123456789abcdef"
INPUT = "s3://dissmodel-inputs/inputs/a/grid.zip"

segments = st.sampled_from(["..", ".", "", "a", "b.txt", "~", "experiments", ID, "..."]) | st.text(
    max_size=8
)
keys = st.lists(segments, max_size=6).map("/".join) | st.text(max_size=40)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    directory = tmp_path / "outputs"
    directory.mkdir()
    return directory


@pytest.fixture
def store(outputs: Path, tmp_path: Path) -> RunStore:
    staged = tmp_path / "grid.zip"
    staged.write_bytes(b"grid")
    return RunStore(outputs, ID, {INPUT: str(staged)})


def read(store: RunStore, bucket: str, key: str) -> bytes:
    with store.get_object(bucket, key) as file:
        return file.read()


@given(keys, st.booleans())
def test_no_key_leaves_the_runs_directory(key: str, with_prefix: bool) -> None:
    outputs = Path("/srv/run/outputs")
    store = RunStore(outputs, ID, {})
    try:
        path = store.path_of(OUTPUTS_BUCKET, f"experiments/{ID}/{key}" if with_prefix else key)
    except PermissionError:
        return
    assert path.is_relative_to(outputs)
    assert path != outputs
    assert ".." not in path.parts


@given(keys)
def test_nothing_is_written_outside_the_runs_directory(key: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        outputs = Path(scratch) / "one" / "outputs"
        outputs.mkdir(parents=True)
        store = RunStore(outputs, ID, {})
        try:
            store.put_object(OUTPUTS_BUCKET, key, io.BytesIO(b"data"))
        except (OSError, ValueError):  # refused, or no name of a file at all
            pass
        else:
            assert read(store, OUTPUTS_BUCKET, key) == b"data"
        written = [path for path in Path(scratch).rglob("*") if path.is_file()]
        assert all(path.is_relative_to(outputs) for path in written)


@pytest.mark.parametrize(
    "key",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../secret",
        "a/../../secret",
        "a/..",
        f"experiments/{ID}/",
        f"experiments/{ID}/../x",
        f"experiments/{ID}//etc/passwd",
    ],
)
def test_names_that_are_none_are_refused(store: RunStore, outputs: Path, key: str) -> None:
    with pytest.raises(PermissionError, match="not a name below the experiment's outputs"):
        store.put_object(OUTPUTS_BUCKET, key, io.BytesIO(b"data"))
    assert not list(outputs.iterdir())


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("result.gpkg", "result.gpkg"),
        ("a/b/result.gpkg", "a/b/result.gpkg"),
        (f"experiments/{ID}/result.gpkg", "result.gpkg"),
        (f"experiments/{'f' * 32}/result.gpkg", f"experiments/{'f' * 32}/result.gpkg"),
        ("a//./b", "a/b"),
    ],
)
def test_the_experiments_own_prefix_is_dropped(
    store: RunStore, outputs: Path, key: str, name: str
) -> None:
    store.put_object(OUTPUTS_BUCKET, key, io.BytesIO(b"data"))
    assert (outputs / name).read_bytes() == b"data"
    assert read(store, OUTPUTS_BUCKET, key) == b"data"
    store.stat_object(OUTPUTS_BUCKET, key)


@pytest.mark.parametrize(("length", "content"), [(-1, b"0123456789"), (4, b"0123"), (0, b"")])
def test_as_many_bytes_are_written_as_were_given(
    store: RunStore, outputs: Path, length: int, content: bytes
) -> None:
    store.put_object(OUTPUTS_BUCKET, "x", io.BytesIO(b"0123456789"), length, content_type="text")
    assert (outputs / "x").read_bytes() == content


def test_files_are_copied_in_and_out(store: RunStore, outputs: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"data")
    store.fput_object(OUTPUTS_BUCKET, "a/x", str(source))
    assert (outputs / "a" / "x").read_bytes() == b"data"
    store.fget_object(OUTPUTS_BUCKET, "a/x", str(target))
    assert target.read_bytes() == b"data"


def test_a_staged_input_is_read_by_its_address(store: RunStore, tmp_path: Path) -> None:
    key = "inputs/a/grid.zip"
    assert read(store, "dissmodel-inputs", key) == b"grid"
    store.stat_object("dissmodel-inputs", key)
    store.fget_object("dissmodel-inputs", key, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == b"grid"


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        ("dissmodel-inputs", "inputs/a/other.zip"),
        ("another", "x"),
        (OUTPUTS_BUCKET, "not-written"),
    ],
)
def test_what_was_not_staged_is_told(store: RunStore, bucket: str, key: str) -> None:
    for look in (store.get_object, store.stat_object):
        with pytest.raises(FileNotFoundError, match="was not staged for this run"):
            look(bucket, key)


@pytest.mark.parametrize("bucket", ["dissmodel-inputs", "another", "", ".."])
def test_a_run_writes_to_the_outputs_bucket_only(store: RunStore, bucket: str) -> None:
    assert not store.bucket_exists(bucket)
    with pytest.raises(PermissionError, match="writes to s3://dissmodel-outputs/ only"):
        store.put_object(bucket, "x", io.BytesIO(b""))
    with pytest.raises(PermissionError, match="writes to s3://dissmodel-outputs/ only"):
        store.make_bucket(bucket)


def test_the_outputs_bucket_is_always_there(store: RunStore) -> None:
    assert store.bucket_exists(OUTPUTS_BUCKET)
    store.make_bucket(OUTPUTS_BUCKET)
