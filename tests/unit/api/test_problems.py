"""Every error of the tree has its place in the drawing and its status; one body shape for all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from dissmodel_platform import errors
from dissmodel_platform.api.problems import STATUS_BY_ERROR, problem, problem_of, status_of

_BRANCH = re.compile(r"^(?P<indent>[ │]*)[├└]─ (?P<name>\w+)", re.MULTILINE)


def tree(kind: type[errors.PlatformError]) -> Iterator[type[errors.PlatformError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


EVERY = list(tree(errors.PlatformError))
OF_THE_WORKER_OR_THE_CLIENT = (
    errors.SettingsError,
    errors.ExecutionError,
    errors.ClientError,
)


def drawn_parents() -> dict[str, str]:
    """Read the drawing in the module's docstring: the parent of each class."""
    parents: dict[str, str] = {}
    path: dict[int, str] = {0: "PlatformError"}
    for branch in _BRANCH.finditer(errors.__doc__ or ""):
        depth = (len(branch["indent"]) - 5) // 4 + 1
        path[depth] = branch["name"]
        parents[branch["name"]] = path[depth - 1]
    return parents


def test_the_drawing_shows_every_class_under_its_parent() -> None:
    real = {kind.__name__: kind.__base__.__name__ for kind in EVERY[1:]}
    assert drawn_parents() == real


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_a_status_of_its_own_or_of_an_ancestor(
    kind: type[errors.PlatformError],
) -> None:
    status = status_of(kind.__new__(kind))
    if kind is errors.PlatformError or issubclass(kind, OF_THE_WORKER_OR_THE_CLIENT):
        assert status == 500, "the API never raises it"
    else:
        assert status in set(STATUS_BY_ERROR.values()) - {500}


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_a_slug_and_a_title(kind: type[errors.PlatformError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
    assert kind.title[0].isupper()
    assert not kind.title.endswith(".")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidInput("No."), 422),
        (errors.ModelNotFound("x"), 404),
        (errors.ExperimentNotFound("x"), 404),
        (errors.AlreadyFinal("No."), 400),
        (errors.NotAuthenticated("No."), 401),
        (errors.NotAuthorised("No."), 403),
        (errors.UploadTooLarge("No."), 413),
        (errors.GitError("No."), 502),
        (errors.SyncTimeout("No."), 504),
        (errors.DatabaseError("No."), 503),
        (errors.StorageError("No."), 503),
    ],
)
def test_an_error_is_answered_with_its_status(error: errors.PlatformError, status: int) -> None:
    answer = problem_of(error)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = json.loads(answer.body)
    assert body["status"] == status
    assert body["type"] == f"urn:dissmodel-platform:{error.code}"
    assert body["title"] == error.title
    assert body["detail"] == str(error)


def test_the_data_of_an_error_goes_along() -> None:
    fields = errors.InvalidInput("No.", {"parameters.end_time": "must be a number"})
    assert json.loads(problem_of(fields).body)["errors"] == [
        {"field": "parameters.end_time", "message": "must be a number"}
    ]
    near = errors.ModelNotFound("flod", ["flood"])
    assert json.loads(problem_of(near).body)["nearest"] == ["flood"]
    failed = errors.GitError("No.", stderr_tail="fatal: no such remote")
    assert json.loads(problem_of(failed).body)["git_output"] == "fatal: no such remote"
    assert problem_of(errors.NotAuthenticated("No.")).headers["WWW-Authenticate"]


def test_half_a_character_in_a_message_does_not_break_the_answer() -> None:
    answer = problem(422, "invalid-input", "Invalid input", "\ud800 is no name.")
    assert json.loads(answer.body)["detail"] == "\ud800 is no name."
