"""Two real stores, a directory and an S3 server, behind one fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissmodel_platform.storage.objects import ObjectStore, open_object_store


@pytest.fixture
def s3_store(s3_bucket: str, tmp_path: Path) -> ObjectStore:
    """Open a prefix of a new bucket."""
    return open_object_store(f"s3://{s3_bucket.rpartition('/')[2]}/objects", tmp_path / "unused")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the directory store lies."""
    return tmp_path / "home" / "objects"


@pytest.fixture
def directory_store(directory: Path) -> ObjectStore:
    """Open a new directory."""
    return open_object_store(None, directory)


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """Every store in turn."""
    opened: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return opened
