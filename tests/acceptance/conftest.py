"""One running platform for all acceptance tests, made by the real command."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.support import GRID, Up, environment_of, poll, running, upload

MAX_UPLOAD_BYTES = 5_000_000


@pytest.fixture(scope="session")
def input_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the one directory of the server's own that inputs may come from."""
    directory = tmp_path_factory.mktemp("served")
    shutil.copy(GRID, directory)
    return directory


@pytest.fixture(scope="session")
def platform(
    home: Path, tmp_path_factory: pytest.TempPathFactory, input_directory: Path
) -> Iterator[Up]:
    """Run the platform with the environment of flood_vector built; it ends as it should."""
    up = Up(
        tmp_path_factory.mktemp("platform") / "home",
        {
            "PLATFORM_INPUT_DIRECTORIES": str(input_directory),
            "PLATFORM_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
            "PLATFORM_CANCEL_GRACE_SECONDS": "1",
        },
    )
    with running(up.start().wait_until_ready()):
        with up.client() as http:
            environment_of(http, "flood_vector")
        yield up
        assert up.stop() == 0
        assert "Traceback" not in up.said(), up.said()
    shutil.rmtree(up.home)  # pytest keeps temporary directories; this one has a gigabyte


@pytest.fixture
def http(platform: Up) -> Iterator[httpx.Client]:
    """Open a client with the platform's key."""
    with platform.client() as client:
        yield client


@pytest.fixture
def stranger(platform: Up) -> Iterator[httpx.Client]:
    """Open a client without a key."""
    with httpx.Client(base_url=platform.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def grid(platform: Up) -> dict[str, Any]:
    """Upload the example's grid."""
    with platform.client() as client:
        return upload(client, GRID)


@pytest.fixture(scope="session")
def completed(platform: Up, grid: dict[str, Any]) -> dict[str, Any]:
    """Run the example's model to its end."""
    with platform.client() as client:
        answer = client.post(
            "/submit_job",
            json={
                "model_name": "flood_vector",
                "input_dataset": grid["uri"],
                "parameters": {"end_time": 4},
            },
        )
        assert answer.status_code == 200, answer.text
        job = poll(client, answer.json()["job_id"])
    assert job["status"] == "completed", job["logs"]
    return job


@pytest.fixture
def fresh_up(platform: Up, tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Make platforms with homes of their own that share registry and built environments."""
    made: list[Up] = []

    def make(name: str = "home", **variables: str) -> Up:
        place = tmp_path / name
        if not place.exists():
            place.mkdir(mode=0o700)
            for shared in ("packages", "local"):
                (place / shared).symlink_to(platform.home / shared)
        made.append(Up(place, variables))
        return made[-1]

    yield make
    for up in made:
        up.kill()
        shutil.rmtree(up.home, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip where there is no /proc to find forgotten processes in."""
    if not sys.platform.startswith("linux"):
        for item in items:
            if "acceptance" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="looks for processes in /proc"))
