"""Signed links: one file, any backend; GET, HEAD and Range (RFC 9110, 14) without a key."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from dissmodel_platform.api.context import Context, Parts
from dissmodel_platform.api.linked_files import LinkedFile, find_file, read_address
from dissmodel_platform.api.problems import problem
from dissmodel_platform.errors import ObjectNotFound
from dissmodel_platform.storage.links import read_link

router = APIRouter(prefix="/d", tags=["data"])

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


class RangeNotSatisfiable(Exception):
    """The range asked for lies outside the file."""


@router.get("/{token}/{file_name}", summary="Download a file by its link")
async def get_file(token: str, file_name: str, request: Request, parts: Parts) -> Response:
    """Return the file, or the part of it that ``Range`` asks for."""
    found, headers = await _open(token, file_name, parts)
    if _has_it(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("Range")
    if request.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
        wanted = None
    try:
        part = read_range(wanted, found.size_bytes)
    except RangeNotSatisfiable:
        return problem(
            416,
            "range-not-satisfiable",
            "Range not satisfiable",
            f"The file has {found.size_bytes} bytes; ask for a range that begins within them.",
            {"Content-Range": f"bytes */{found.size_bytes}", "Accept-Ranges": "bytes"},
        )
    start, end = part or (0, found.size_bytes)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size_bytes}"
    return StreamingResponse(
        found.stream(start, end),
        status_code=206 if part else 200,
        headers=headers,
        media_type=found.media_type,
    )


@router.head("/{token}/{file_name}", summary="Size and type of a file by its link")
async def head_file(token: str, file_name: str, request: Request, parts: Parts) -> Response:
    """Return the headers of the file without its bytes."""
    found, headers = await _open(token, file_name, parts)
    if _has_it(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(found.size_bytes)
    return Response(headers=headers, media_type=found.media_type)


async def _open(token: str, file_name: str, parts: Context) -> tuple[LinkedFile, dict[str, str]]:
    """Check a link; the file must still be the one that was linked to."""
    link = read_link(parts.link_secret, token, datetime.now(UTC))
    found = await find_file(parts, read_address(parts, str(link.uri)))
    if found.version != link.sha256 or link.uri.name != file_name:
        raise ObjectNotFound("The file behind this link has changed; ask for a new link.")
    return found, {
        "ETag": f'"{found.version}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=3600",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(file_name)}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }


def _has_it(request: Request, etag: str) -> bool:
    """Say whether the client has the file already (``If-None-Match``, RFC 9110, 13.1.2)."""
    known = request.headers.get("If-None-Match", "")
    return known.strip() == "*" or etag in _ENTITY_TAG.findall(known)


def read_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Read a ``Range`` header.

    Parameters
    ----------
    header : str or None
        The header; one of another form, or with several ranges, is ignored as RFC 9110 allows.
    size_bytes : int
        Size of the file.

    Returns
    -------
    tuple of int, or None
        First byte and the byte after the last; ``None`` for the whole file.

    Raises
    ------
    RangeNotSatisfiable
        The range begins behind the end of the file.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start = int(first)
        end = min(size_bytes, int(last) + 1) if last else size_bytes
        if last and int(last) < start:
            return None
    if start >= size_bytes or start >= end:
        raise RangeNotSatisfiable
    return start, end
