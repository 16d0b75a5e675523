"""The OpenAPI document: builds in silence, names each operation once, says where the key goes."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.api.app import create_app
from dissmodel_platform.api.guard import is_public
from dissmodel_platform.settings import Settings


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """Build the document of an application that was never started."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return create_app(Settings(home=tmp_path)).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_making_the_application_touches_nothing(tmp_path: Path) -> None:
    create_app(Settings(home=tmp_path / "home"))
    assert list(tmp_path.iterdir()) == []


def test_every_endpoint_of_the_contract_is_there(document: dict[str, Any]) -> None:
    there = {(method.upper(), path) for path, method, _ in operations(document)}
    assert there >= {
        ("POST", "/submit_job"),
        ("POST", "/submit_job_inline"),
        ("GET", "/job/{experiment_id}"),
        ("DELETE", "/job/{experiment_id}"),
        ("GET", "/jobs"),
        ("GET", "/models"),
        ("GET", "/models/{name}"),
        ("POST", "/data/upload"),
        ("GET", "/download"),
        ("GET", "/d/{token}/{file_name}"),
        ("HEAD", "/d/{token}/{file_name}"),
        ("POST", "/admin/sync"),
        ("GET", "/registry/problems"),
        ("GET", "/experiments/{experiment_id}"),
        ("GET", "/experiments/{experiment_id}/artifacts"),
        ("POST", "/experiments/{experiment_id}/reproduce"),
        ("POST", "/experiments/{experiment_id}/publish"),
        ("GET", "/health"),
        ("HEAD", "/health"),
        ("GET", "/metrics"),
    }


def test_no_two_operations_share_an_id(document: dict[str, Any]) -> None:
    ids = Counter(operation["operationId"] for _, _, operation in operations(document))
    assert [name for name, times in ids.items() if times > 1] == []


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert operation["tags"], (method, path)


def test_whatever_is_not_public_declares_both_ways_of_giving_a_key(
    document: dict[str, Any],
) -> None:
    for path, method, operation in operations(document):
        schemes = {name for scheme in operation.get("security", []) for name in scheme}
        expected = set() if is_public(path) else {"APIKeyHeader", "HTTPBearer"}
        assert schemes == expected, (method, path)


@pytest.mark.parametrize(
    "path", ["/", "/health", "/docs", "/openapi.json", "/d/x/y", "/webhooks/a"]
)
def test_public_paths_are_those_that_the_design_names(path: str) -> None:
    assert is_public(path)


@pytest.mark.parametrize(
    "path",
    ["/jobs", "/metrics", "/docs/", "//", "/health/x", "/D/x/y", "/d", "/webhooks", "", "/redoc"],
)
def test_every_other_path_needs_a_key(path: str) -> None:
    assert not is_public(path)
