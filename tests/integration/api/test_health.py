"""What the API says of itself while its database and its store come and go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dissmodel_platform.database.embedded import EmbeddedPostgres
from tests.integration.api.role import serving


@pytest.fixture
def database(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL that may be stopped."""
    with EmbeddedPostgres(tmp_path / "pg") as server:
        yield server


def test_before_the_first_sync_it_is_healthy_and_not_ready(
    tmp_path: Path, database: EmbeddedPostgres
) -> None:
    with serving(tmp_path, database.url) as client:
        answer = client.get("/health")
        assert answer.status_code == 200
        assert answer.json()["status"] == "healthy"
        assert answer.json()["ready"] is False
        assert answer.json()["reasons"] == ["No commit of the registry has been published yet."]
        assert client.get("/models").json() == {"models": [], "commit": None, "next": None}
        empty = {"commit": None, "problems": [], "total": 0, "next": None}
        assert client.get("/registry/problems").json() == empty
        assert client.get("/jobs").json() == {"experiments": [], "total": 0, "next": None}
        assert client.get("/metrics").status_code == 200
        for answer in (
            client.get("/models/flood_vector"),
            client.post("/submit_job", json={"model_name": "flood_vector", "input_dataset": ""}),
        ):
            assert answer.status_code == 404
            assert answer.json()["type"].endswith(":model-not-found")


def test_without_its_database_it_is_unhealthy_and_well_again_when_that_is_back(
    tmp_path: Path, database: EmbeddedPostgres
) -> None:
    with serving(tmp_path, database.url) as client:
        database.stop()
        begin = time.monotonic()
        answer = client.get("/health")
        assert time.monotonic() - begin < 10
        assert answer.status_code == 503
        assert answer.json()["status"] == "unhealthy"
        assert answer.json()["ready"] is False
        assert answer.json()["reasons"][0].startswith("PostgreSQL ")
        database.start()
        deadline = time.monotonic() + 30
        while client.get("/health").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_without_its_store_it_is_unhealthy_and_well_again_when_that_is_back(
    tmp_path: Path, database: EmbeddedPostgres
) -> None:
    objects = tmp_path / "home" / "objects"
    with serving(tmp_path, database.url) as client:
        assert client.get("/health").status_code == 200
        away = objects.with_name("away")
        objects.rename(away)
        objects.write_text("no directory")
        answer = client.get("/health")
        assert answer.status_code == 503
        assert "store" in answer.json()["reasons"][-1]
        assert str(objects) not in answer.text
        assert str(objects) in (tmp_path / "api.log").read_text()
        upload = client.post("/data/upload", files={"file": ("a.txt", b"a")})
        assert upload.status_code == 503
        assert upload.headers["Content-Type"] == "application/problem+json"
        objects.unlink()
        shutil.move(away, objects)
        assert client.get("/health").status_code == 200
