"""Addresses that the API hands out."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import Request

from dissmodel_platform.settings import Settings


def public_base(request: Request, settings: Settings) -> str:
    """Return the base of the API's own links: the operator's setting, else the request's."""
    base = settings.public_url or str(request.base_url)
    return base.rstrip("/")


def download_url(base: str, token: str, file_name: str) -> str:
    """Return a link that ends in the file's name, so that programs know its format."""
    return f"{base}/d/{token}/{quote(file_name)}"
