"""The page that a person sees who opens the server's address."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from dissmodel_platform import __version__

router = APIRouter(include_in_schema=False)

_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DisSModel Platform</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem;
        color: #1d2b36; }}
code {{ background: #eef2f5; padding: .1rem .3rem; border-radius: .2rem; }}
a {{ color: #0b6296; }}
</style>
</head>
<body>
<h1>DisSModel Platform</h1>
<p>Runs published spatial simulation models and keeps a record from which each run can be
reproduced. Version {__version__}.</p>
<ul>
<li><a href="docs">Try the API in the browser</a> (needs a key: <code>X-API-Key</code>)</li>
<li><a href="health">Is it well?</a></li>
<li><a href="openapi.json">OpenAPI document</a></li>
</ul>
<p>On a terminal: <code>dissmodel-platform models</code>,
<code>dissmodel-platform submit flood_vector grid.zip --wait</code>.</p>
</body>
</html>
"""


@router.get("/", response_class=HTMLResponse)
@router.head("/", response_class=HTMLResponse)
async def home() -> str:
    """Return the page."""
    return _PAGE
