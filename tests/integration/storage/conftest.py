"""Two real stores, a directory and an S3 server, behind one fixture."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer

from dissmodel_platform.storage.objects import ObjectStore, open_object_store


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 server that lives as long as the test session."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a new bucket over plain HTTP, with the variables that make it reachable."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"{s3_endpoint}/platform-{uuid.uuid4().hex}"
    httpx.put(bucket, trust_env=False).raise_for_status()
    return bucket


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
