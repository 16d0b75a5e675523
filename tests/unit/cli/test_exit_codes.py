"""Exit codes are stable: scripts rely on them."""

from __future__ import annotations

import pytest

from dissmodel_platform import errors
from dissmodel_platform.cli.exit_codes import EXIT_CODES, exit_code_of


def every(kind: type[errors.PlatformError]) -> list[type[errors.PlatformError]]:
    children = [c for c in kind.__subclasses__() if c.__module__ == errors.__name__]
    return [kind, *(grandchild for child in children for grandchild in every(child))]


@pytest.mark.parametrize("kind", every(errors.PlatformError))
def test_every_error_ends_with_a_code_that_is_neither_success_nor_a_signal(
    kind: type[errors.PlatformError],
) -> None:
    if kind is not errors.ServerRefused:
        assert 1 <= exit_code_of(kind.__new__(kind)) < 64


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PlatformError("x"), 1),
        (errors.ClientError("x"), 1),
        (errors.InvalidInput("x"), 2),
        (errors.SettingsError("x"), 2),
        (errors.ExperimentFailed("x"), 3),
        (errors.ModelNotFound("x"), 4),
        (errors.NotAuthenticated("x"), 5),
        (errors.NotAuthorised("x"), 5),
        (errors.ServerUnreachable("x"), 6),
        (errors.DatabaseError("x"), 6),
    ],
)
def test_the_codes_that_scripts_know(error: errors.PlatformError, code: int) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 5), (403, 5), (404, 4), (413, 2), (422, 2), (500, 1), (502, 1), (503, 6)],
)
def test_what_a_server_refuses_counts_by_its_status(status: int, code: int) -> None:
    assert exit_code_of(errors.ServerRefused(status, {"detail": "No."})) == code


def test_the_table_has_the_root_so_that_nothing_is_without_a_code() -> None:
    assert EXIT_CODES[errors.PlatformError] == 1
