"""Data: uploads, and links to download."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile

from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Parts, requires
from dissmodel_platform.api.linked_files import find_file, read_address
from dissmodel_platform.api.schemas import DownloadLink, Upload
from dissmodel_platform.api.urls import download_url, public_base
from dissmodel_platform.storage.index import index_upload
from dissmodel_platform.storage.links import sign_link
from dissmodel_platform.storage.media import media_type
from dissmodel_platform.storage.uris import input_uri

router = APIRouter(tags=["data"])

_CHUNK_BYTES = 1024**2


@router.post("/data/upload", summary="Upload an input")
async def upload(
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.DATA))],
    file: Annotated[UploadFile, File(description="The data set; a zip stays a zip.")],
    label: Annotated[str, Form(description="Groups uploads; part of the uri.")] = "default",
) -> Upload:
    """Store a file under ``s3://dissmodel-inputs/inputs/<label>/<file name>``."""
    uri = input_uri(label, file.filename or "")
    stored = await parts.store.put_stream(_chunks(file), max_bytes=parts.settings.max_upload_bytes)
    indexed = await index_upload(
        parts.database, uri, stored, media_type=media_type(uri.name), label=label
    )
    return Upload(
        uri=indexed.uri,
        label=label,
        checksum=indexed.sha256,
        size_mb=round(indexed.size_bytes / 1e6, 3),
        size_bytes=indexed.size_bytes,
    )


@router.get("/download", summary="Get a link to a file")
async def download(
    request: Request,
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
    uri: Annotated[str, Query(examples=["s3://dissmodel-outputs/experiments/…/output.gpkg"])],
    expires_hours: Annotated[float, Query(gt=0, le=24 * 365)] = 1.0,
) -> DownloadLink:
    """Return a link that answers GET, HEAD and Range without a header until it expires."""
    address = read_address(parts, uri)
    found = await find_file(parts, address)
    expires_at = datetime.now(UTC) + timedelta(hours=expires_hours)
    token = sign_link(parts.link_secret, address, found.version, expires_at)
    base = public_base(request, parts.settings)
    return DownloadLink(url=download_url(base, token, address.name), expires_in_hours=expires_hours)


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_CHUNK_BYTES):
        yield chunk
