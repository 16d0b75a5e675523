"""Bodies of requests: bounded in size and in time, but for uploads, which are streams."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dissmodel_platform.api.problems import problem_of
from dissmodel_platform.errors import RequestTimeout, UploadTooLarge

BODY_SECONDS = 30.0
"""How long the body of a request may take to come, in seconds."""

_READ_BY_HANDLERS = ("/data/upload", "/webhooks/")


class BodyGuard:
    """Middleware that takes in the body of a request before anything is done with it.

    After this, handlers can assume that the body is there as a whole. Uploads are streams, and
    webhooks are read only where they are set up; both are left to their handlers.

    Parameters
    ----------
    max_bytes : int
        Largest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body, or answer 408 or 413."""
        if not _has_body(scope) or scope["path"].startswith(_READ_BY_HANDLERS):
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(Request(scope, receive), max_bytes=self._max_bytes)
        except (RequestTimeout, UploadTooLarge) as error:
            await problem_of(error)(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, receive_again, send)


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Read a body to its end.

    Raises
    ------
    UploadTooLarge
        It has more bytes.
    RequestTimeout
        It has not come within ``BODY_SECONDS``, or broke off.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise UploadTooLarge(
                        f"The body of this request may have {max_bytes} bytes at most; data sets "
                        f"go to POST /data/upload."
                    )
    except TimeoutError as error:
        raise RequestTimeout(
            f"The body of the request did not come within {BODY_SECONDS:g} s; send it again."
        ) from error
    except ClientDisconnect as error:
        raise RequestTimeout("The body of the request broke off; send it again.") from error
    return bytes(body)


def _has_body(scope: Scope) -> bool:
    if scope["type"] != "http":
        return False
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
