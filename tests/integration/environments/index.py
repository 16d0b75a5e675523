"""A package index on the loopback, with small real wheels that are made for a test."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STAND_IN = Path(__file__).parents[2] / "packages" / "stand-in-dissmodel" / "dissmodel"
BACKEND = """
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = {name!r}
    with zipfile.ZipFile(directory + "/" + name, "w") as archive:
        for file, text in {files!r}.items():
            archive.writestr(file, text)
    return name
"""


@dataclass
class LocalIndex:
    """Files by name, and the pages that list them (the simple repository API).

    Attributes
    ----------
    files : dict of str to bytes
        What can be downloaded.
    asked : list of str
        Paths of the requests.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Address for uv's ``UV_DEFAULT_INDEX``."""
        return f"http://127.0.0.1:{self.port}/listing"

    def add_wheel(
        self, name: str, version: str, files: Mapping[str, str], requires: Sequence[str] = ()
    ) -> str:
        """Publish a wheel; returns its address with its hash."""
        file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for member, text in _wheel_files(name, version, files, requires).items():
                archive.writestr(member, text)
        return self._publish(file, content.getvalue())

    def add_sdist(self, name: str, version: str, files: Mapping[str, str]) -> str:
        """Publish a source distribution alone, with a build backend of its own."""
        module = name.replace("-", "_")
        backend = BACKEND.format(
            name=f"{module}-{version}-py3-none-any.whl", files=_wheel_files(name, version, files)
        )
        project = (
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            f'[project]\nname = "{name}"\nversion = "{version}"\n'
        )
        members = {
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "pyproject.toml": project,
            "backend.py": backend,
        }
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            for member, text in members.items():
                info = tarfile.TarInfo(f"{module}-{version}/{member}")
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
        return self._publish(f"{module}-{version}.tar.gz", content.getvalue())

    def add_stand_in(self, version: str = "0.6.0") -> None:
        """Publish the stand-in for dissmodel."""
        files = {
            str(path.relative_to(STAND_IN.parent)): path.read_text()
            for path in STAND_IN.rglob("*.py")
        }
        self.add_wheel("dissmodel", version, files)

    def page(self, path: str) -> bytes | None:
        """Answer a request: a listing, a file, or nothing."""
        self.asked.append(path)
        parts = path.strip("/").split("/")
        if parts[0] == "files" and len(parts) == 2:
            return self.files.get(parts[1])
        if parts[0] != "listing" or len(parts) != 2:
            return None
        wanted = parts[1].replace("-", "_")
        links = [
            f'<a href="/files/{file}#sha256={self.hashes[file]}">{file}</a>'
            for file in self.files
            if file.startswith(f"{wanted}-")
        ]
        return f"<!DOCTYPE html><body>{''.join(links)}</body>".encode() if links else None

    def _publish(self, file: str, content: bytes) -> str:
        self.files[file] = content
        self.hashes[file] = hashlib.sha256(content).hexdigest()
        return f"http://127.0.0.1:{self.port}/files/{file}#sha256={self.hashes[file]}"


def executor(name: str, code: str = "") -> str:
    """Return a module with one executor."""
    return (
        f"from dissmodel.executor import ModelExecutor\n{code}\n"
        f"class Model(ModelExecutor):\n    name = {name!r}\n"
    )


@contextmanager
def serving(index: LocalIndex) -> Iterator[LocalIndex]:
    """Serve an index on a free port of the loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = index.page(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            if body is not None and self.path.startswith("/listing"):
                self.send_header("Content-Type", "text/html")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()


def _wheel_files(
    name: str, version: str, files: Mapping[str, str], requires: Sequence[str] = ()
) -> dict[str, str]:
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    wanted = "".join(f"Requires-Dist: {each}\n" for each in requires)
    members = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{wanted}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{member},,\n" for member in (*members, f"{info}/RECORD"))
    return {**members, f"{info}/RECORD": record}
