"""One shape for every error of the API: problem details (RFC 9457)."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dissmodel_platform import errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS_BY_ERROR: dict[type[errors.PlatformError], int] = {
    errors.InvalidInput: 422,
    errors.NotFound: 404,
    errors.SubmissionConflict: 409,
    errors.AlreadyFinal: 400,
    errors.TooManyStreams: 429,
    errors.RequestTimeout: 408,
    errors.NotAuthenticated: 401,
    errors.NotAuthorised: 403,
    errors.DatabaseError: 503,
    errors.UploadTooLarge: 413,
    errors.StorageError: 503,
    errors.SyncTimeout: 504,
    errors.RegistryError: 502,
    errors.EnvironmentBuildError: 502,
}
"""HTTP status of each error; a class that is missing takes its nearest ancestor's, else 500."""

_TYPES = {
    400: "bad-request",
    401: "not-authenticated",
    403: "not-authorised",
    404: "not-found",
    405: "method-not-allowed",
    413: "upload-too-large",
    422: "invalid-input",
}


_HEADERS: dict[type[errors.PlatformError], dict[str, str]] = {
    errors.NotAuthenticated: {"WWW-Authenticate": "ApiKey"},
    errors.TooManyStreams: {"Retry-After": "10"},
    errors.RequestTimeout: {"Connection": "close"},  # what still comes is no request
}


def status_of(error: errors.PlatformError) -> int:
    """Return the HTTP status of an error."""
    for kind in type(error).__mro__:
        if kind in STATUS_BY_ERROR:
            return STATUS_BY_ERROR[kind]
    return 500


class Problem(JSONResponse):
    """Problem details; in ASCII, since what is wrong with a text may be its characters."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content).encode("ascii")


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Problem:
    """Make the answer for an error."""
    body = {"type": f"urn:dissmodel-platform:{code}", "title": title, "status": status}
    return Problem({**body, "detail": detail, **more}, status_code=status, headers=headers)


def problem_of(error: errors.PlatformError) -> Problem:
    """Make the answer for one of our own errors."""
    more: dict[str, Any] = {}
    if isinstance(error, errors.InvalidInput) and error.fields:
        more["errors"] = [{"field": name, "message": text} for name, text in error.fields.items()]
    if isinstance(error, errors.ModelNotFound):
        more["nearest"] = error.nearest
    if isinstance(error, errors.GitError):
        more["git_output"] = error.stderr_tail
    if isinstance(error, errors.EnvironmentBuildError):
        more["output_tail"] = error.output_tail
    headers = _HEADERS.get(type(error))
    return problem(status_of(error), error.code, error.title, str(error), headers, **more)


def described(answers: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return the errors of an endpoint as the OpenAPI document has them: status, and when."""
    shape = {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
    }
    return {
        status: {"description": when, "content": {MEDIA_TYPE: {"schema": shape}}}
        for status, when in answers.items()
    }


def install(app: FastAPI) -> None:
    """Register the handlers, so that no error leaves the API in another shape."""
    app.add_exception_handler(errors.PlatformError, _platform_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)


async def _platform_error(_: Request, error: Exception) -> Problem:
    assert isinstance(error, errors.PlatformError)
    return problem_of(error)


async def _validation_error(_: Request, error: Exception) -> Problem:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    faults = [_field_fault(fault) for fault in found[: errors.MOST_FAULTS]]
    told = [f"{fault['field']}: {fault['message'].rstrip('.')}." for fault in faults]
    if len(found) > errors.MOST_FAULTS:
        told.append(f"{len(found) - errors.MOST_FAULTS} more fields do not fit.")
    detail = " ".join(told)
    return problem(422, "invalid-input", "Invalid input", detail, errors=faults)


def _field_fault(fault: dict[str, Any]) -> dict[str, str]:
    """Name the field as the client knows it, without the part of the request it stands in."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "json_invalid":
        return {"field": "body", "message": f"{message}: {fault['ctx']['error']}"}
    field = ".".join(str(part) for part in fault["loc"][1:])
    return {"field": field or str(fault["loc"][0]), "message": message}


async def _http_error(request: Request, error: Exception) -> Problem:
    assert isinstance(error, HTTPException)
    code = _TYPES.get(error.status_code, "http-error")
    headers = dict(error.headers) if error.headers else None
    title = code.replace("-", " ").capitalize()
    path = request.url.path
    if error.status_code == 404:
        detail = f"There is nothing at {path}; GET /openapi.json lists what there is."
    elif error.status_code == 405:
        answered = (headers or {}).get("Allow", "another method")
        detail = f"{path} does not take {request.method}; use {answered}."
    else:
        detail = f"{str(error.detail).rstrip('.')}."
    return problem(error.status_code, code, title, detail, headers)


async def _unexpected_error(request: Request, error: Exception) -> Problem:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem(
        500,
        "internal-error",
        "Something went wrong",
        "The server failed; the operator finds the cause in the log of the api.",
    )
