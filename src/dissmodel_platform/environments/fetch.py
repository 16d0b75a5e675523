"""Download one file; run by file name behind walls, as ``python -I -S fetch.py ADDRESS FILE``.

The standard library only: nothing else can be seen there. The proxy is in the environment.
"""

from __future__ import annotations

import os
import shutil
import ssl
import sys
import urllib.error
import urllib.request


def fetch(address: str, file: str) -> None:
    """Write what an address answers with to a file."""
    authorities = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or None)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=authorities))
    with opener.open(address, timeout=60) as answer, open(file, "wb") as opened:  # noqa: PTH123
        shutil.copyfileobj(answer, opened)


if __name__ == "__main__":
    try:
        fetch(*sys.argv[1:])
    except (OSError, urllib.error.URLError) as error:
        print(f"{sys.argv[1]} cannot be fetched: error sending request: {error}", file=sys.stderr)
        sys.exit(1)
