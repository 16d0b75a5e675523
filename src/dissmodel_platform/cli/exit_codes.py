"""Exit codes; stable, so that scripts may rely on them."""

from __future__ import annotations

from dissmodel_platform import errors

EXIT_CODES: dict[type[errors.PlatformError], int] = {
    errors.PlatformError: 1,
    errors.InvalidInput: 2,
    errors.SettingsError: 2,
    errors.ExperimentFailed: 3,
    errors.NotFound: 4,
    errors.NotAuthenticated: 5,
    errors.NotAuthorised: 5,
    errors.ServerUnreachable: 6,
    errors.DatabaseError: 6,
}
"""Exit code of each error; a class that is missing here takes its nearest ancestor's."""

_BY_STATUS = {401: 5, 403: 5, 404: 4, 400: 2, 413: 2, 422: 2, 503: 6}


def exit_code_of(error: errors.PlatformError) -> int:
    """Return the exit code of an error; one that a server sent counts by its HTTP status."""
    if isinstance(error, errors.ServerRefused):
        return _BY_STATUS.get(error.status, 1)
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
