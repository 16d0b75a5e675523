"""Inputs from the operator's other buckets, on a real S3 server."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from dissmodel_platform.errors import InvalidInput, StorageError
from dissmodel_platform.storage.buckets import fetch_object
from dissmodel_platform.storage.partial import StoredObject
from dissmodel_platform.storage.remote import NothingThere
from dissmodel_platform.storage.uris import LogicalUri

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 40_000


def uri_in(s3_bucket: str, key: str) -> LogicalUri:
    return LogicalUri(s3_bucket.rpartition("/")[2], key)


@pytest.fixture
def uploaded(s3_bucket: str) -> LogicalUri:
    httpx.put(f"{s3_bucket}/maps/grid%201.tif", content=CONTENT, trust_env=False)
    return uri_in(s3_bucket, "maps/grid 1.tif")


async def test_an_object_arrives_whole_with_its_hash(uploaded: LogicalUri, tmp_path: Path) -> None:
    counted: list[int] = []
    stored = await fetch_object(uploaded, tmp_path / "grid.tif", count=counted.append)
    assert stored == StoredObject(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert (tmp_path / "grid.tif").read_bytes() == CONTENT
    assert sum(counted) == len(CONTENT)


async def test_an_object_that_is_not_there_is_a_sentence(s3_bucket: str, tmp_path: Path) -> None:
    for bucket, key in ((s3_bucket, "none.tif"), ("http://x/no-such-bucket", "grid.tif")):
        with pytest.raises(NothingThere, match="There is no object s3://"):
            await fetch_object(uri_in(bucket, key), tmp_path / "x", count=lambda _: None)
    assert not list(tmp_path.iterdir())


async def test_a_count_that_is_too_high_ends_the_download(
    uploaded: LogicalUri, tmp_path: Path
) -> None:
    def refuse(size_bytes: int) -> None:
        raise InvalidInput("too much")

    with pytest.raises(InvalidInput, match="too much"):
        await fetch_object(uploaded, tmp_path / "x", count=refuse)
    assert not list(tmp_path.iterdir())


async def test_a_bucket_that_cannot_be_reached_is_the_machinery_s_fault(
    uploaded: LogicalUri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("dissmodel_platform.storage.backend._RETRY", {"max_retries": 0})
    with pytest.raises(StorageError, match="cannot read s3://"):
        await fetch_object(uploaded, tmp_path / "x", count=lambda _: None)
