"""Nothing but the public paths answers without a key; the others are not even read without one."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dissmodel_platform.api.context import get_context
from dissmodel_platform.api.problems import problem_of
from dissmodel_platform.errors import NotAuthenticated

PUBLIC_PATHS = frozenset({"/", "/health", "/docs", "/openapi.json"})
PUBLIC_PREFIXES = ("/d/", "/webhooks/")
"""Signed links and signed webhooks: their own signatures are checked by their handlers."""


class KeyGuard:
    """Middleware that says who calls, before the body of the request is read.

    A framework reads the body before it looks at a handler's dependencies, so a stranger's upload
    would be taken in whole and then refused. After this, callers can assume that
    ``request.state.caller`` is there on every path that is not public.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] == "http" and not is_public(scope["path"]):
            request = Request(scope)
            try:
                keyring = get_context(request).keyring
                request.state.caller = keyring.identify(_given_key(request.headers))
            except NotAuthenticated as error:
                await problem_of(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_public(path: str) -> bool:
    """Say whether a path answers without a key."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)


def _given_key(headers: Headers) -> str | None:
    """Return the key in ``X-API-Key``, else the bearer token (RFC 6750, 2.1)."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return headers.get("X-API-Key") or (token.strip() if scheme.lower() == "bearer" else None)
