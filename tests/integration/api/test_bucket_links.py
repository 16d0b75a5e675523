"""Links to files of the operator's other buckets."""

from __future__ import annotations

from pathlib import Path

import httpx
import obstore
import pytest

from dissmodel_platform.storage.backend import open_bucket
from tests.integration.api.role import serving

CONTENT = bytes(range(256)) * 20_000


def test_a_file_of_a_listed_bucket_can_be_linked_to_until_it_changes(
    tmp_path: Path, database_url: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3_bucket.rpartition("/")[2]
    monkeypatch.setenv("PLATFORM_INPUT_BUCKETS", f"other, {bucket}")
    obstore.put(open_bucket(f"s3://{bucket}"), "maps/grid.tif", CONTENT)
    uri = f"s3://{bucket}/maps/grid.tif"
    with serving(tmp_path, database_url) as client, httpx.Client(trust_env=False) as stranger:
        url = client.get("/download", params={"uri": uri}).raise_for_status().json()["url"]
        assert url.endswith("/grid.tif")
        assert stranger.get(url).content == CONTENT
        head = stranger.head(url)
        assert head.headers["content-length"] == str(len(CONTENT))
        assert head.headers["content-type"].startswith("image/tiff")
        part = stranger.get(url, headers={"Range": "bytes=300-599"})
        assert (part.status_code, part.content) == (206, CONTENT[300:600])
        absent = client.get("/download", params={"uri": f"s3://{bucket}/none.tif"})
        assert absent.status_code == 404
        unlisted = client.get("/download", params={"uri": "s3://unlisted/grid.tif"})
        assert unlisted.status_code == 422
        obstore.put(open_bucket(f"s3://{bucket}"), "maps/grid.tif", b"another one")
        assert stranger.get(url).status_code == 404
