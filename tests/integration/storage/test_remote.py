"""Inputs from the Internet: what is fetched, what is refused, and where the connection goes.

The server is a real one on 127.0.0.1; names are resolved by the test, as nothing else can make one
name lead to different places from one moment to the next.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import ssl
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dissmodel_platform.errors import InvalidInput, StorageError
from dissmodel_platform.storage import remote
from dissmodel_platform.storage.addresses import Address
from dissmodel_platform.storage.partial import StoredObject
from dissmodel_platform.storage.remote import (
    MAX_REDIRECTS,
    NothingThere,
    check_http_url,
    fetch_http,
)

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 10_000
STORED = StoredObject(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
NAME = "data.example.org"


class Archive(BaseHTTPRequestHandler):
    """A data archive with every habit that archives have."""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]]
    release: threading.Event

    def do_GET(self) -> None:
        self.seen.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        kind, _, rest = self.path.partition("?")[0].lstrip("/").partition("/")
        getattr(self, f"answer_{kind.partition('.')[0]}")(rest)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_grid(self, _: str) -> None:
        self.answer(200, CONTENT, Set_Cookie="session=1")

    def answer_to(self, location: str) -> None:
        self.answer(302, b"elsewhere", Location=location)

    def answer_loop(self, count: str) -> None:
        self.answer(307, Location=f"/loop/{int(count or 0) + 1}")

    def answer_hops(self, left: str) -> None:
        self.answer(301, Location=f"/hops/{int(left) - 1}" if int(left) > 1 else "/grid.zip")

    def answer_status(self, status: str) -> None:
        self.answer(int(status), b"an explanation")

    def answer_truncated(self, _: str) -> None:
        self.answer(200, CONTENT[:1000], Content_Length=str(len(CONTENT)))
        self.close_connection = True

    def answer_chunked(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(CONTENT), 100_000):
            part = CONTENT[start : start + 100_000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def answer_unfinished(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nhello\r\n")
        self.close_connection = True

    def answer_zipped(self, _: str) -> None:
        self.answer(200, gzip.compress(CONTENT), Content_Encoding="gzip")

    def answer_stalled(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"x")
        self.release.wait(30)

    def log_message(self, *_: object) -> None:
        pass


def serve(tls: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    Archive.seen = []
    Archive.release = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Archive)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    Archive.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def archive() -> Iterator[str]:
    """Address of a server without TLS."""
    for server in serve():
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def secure_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a server with a certificate for `NAME`, from an authority that we trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "archive.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    for server in serve(tls):
        yield server.server_port


class Names:
    """A name server that gives each answer once, the last one for ever, and counts."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = [[ip_address(text) for text in answer] for answer in answers]
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


LOOPBACK = Names(["127.0.0.1"])


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[Path]:
    """Where the file goes; nothing else is ever left beside it."""
    (tmp_path / "inputs").mkdir()
    yield tmp_path / "inputs" / "grid.zip"
    assert [path.name for path in (tmp_path / "inputs").iterdir()] in ([], ["grid.zip"])


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


async def fetch(
    url: str,
    destination: Path,
    *,
    max_bytes: int = 10**9,
    allow_private: bool = True,
    resolver: Names = LOOPBACK,
    timeout_seconds: float = 30,
    stall_seconds: float = 10,
) -> StoredObject:
    return await fetch_http(
        url,
        destination,
        max_bytes=max_bytes,
        allow_private=allow_private,
        resolver=resolver,
        timeout_seconds=timeout_seconds,
        stall_seconds=stall_seconds,
    )


@pytest.mark.parametrize("path", ["grid.zip", "grid.zip?token=1#part", "chunked", "hops/5"])
async def test_a_file_arrives_whole_with_its_hash(
    archive: str, destination: Path, path: str
) -> None:
    assert await fetch(f"{archive}/{path}", destination, max_bytes=len(CONTENT)) == STORED
    assert content(destination) == CONTENT


async def test_the_server_sees_the_name_and_no_secrets_of_ours(
    archive: str, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    port = archive.rpartition(":")[2]
    await fetch(f"http://{NAME}:{port}/to//grid.zip", destination)
    first, second = Archive.seen
    assert first["host"] == second["host"] == f"{NAME}:{port}"
    assert first["accept-encoding"] == "identity"
    assert "authorization" not in first
    assert "cookie" not in second


async def test_the_connection_goes_to_the_address_that_was_checked(
    archive: str, destination: Path
) -> None:
    names = Names(["127.0.0.1"], ["192.0.2.1"])
    port = archive.rpartition(":")[2]
    assert await fetch(f"http://{NAME}:{port}/grid.zip", destination, resolver=names) == STORED
    assert names.asked == [NAME]


async def test_a_name_that_changes_after_the_check_is_checked_again_when_fetched(
    archive: str, destination: Path
) -> None:
    names = Names(["93.184.216.34"], ["127.0.0.1"])
    url = f"http://{NAME}:{archive.rpartition(':')[2]}/grid.zip"
    await check_http_url(url, allow_private=False, resolver=names)
    with pytest.raises(InvalidInput, match="private or local"):
        await fetch(url, destination, allow_private=False, resolver=names)
    assert Archive.seen == []


async def test_an_address_that_does_not_answer_is_followed_by_the_next(
    archive: str, destination: Path
) -> None:
    names = Names(["127.0.0.2", "127.0.0.1"])
    port = archive.rpartition(":")[2]
    assert await fetch(f"http://{NAME}:{port}/grid.zip", destination, resolver=names) == STORED


async def test_a_name_with_one_private_address_among_public_ones_is_refused() -> None:
    names = Names(["93.184.216.34", "10.0.0.1"])
    with pytest.raises(InvalidInput, match="private or local"):
        await check_http_url(f"https://{NAME}/grid.zip", allow_private=False, resolver=names)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0",
        "0.0.0.0",
        "10.1.2.3",
        "169.254.169.254",
        "100.100.100.200",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
        "[fd00::1]",
        "[2002:7f00:1::]",
    ],
)
async def test_every_way_to_write_a_local_address_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match="private or local"):
        await check_http_url(f"http://{host}/grid.zip", allow_private=False)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://example.org/grid.zip", "must start with https://"),
        ("file:///etc/passwd", "must start with https://"),
        ("example.org/grid.zip", "must start with https://"),
        ("https://", "must start with https://"),
        ("https:///grid.zip", "must start with https://"),
        ("https://example.org:port/grid.zip", "not a web address"),
        ("https://example.org/\x00", "not a web address"),
        ("https://user:secret@example.org/grid.zip", "user name or password"),
        ("https://user@example.org/grid.zip", "user name or password"),
        ("https://example.org/" + "a" * 5000, "shorten it"),
    ],
)
async def test_an_address_that_is_not_one_is_refused_without_showing_secrets(
    url: str, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence) as error:
        await check_http_url(url, allow_private=True, resolver=LOOPBACK)
    assert "secret" not in str(error.value)


async def test_a_name_that_does_not_exist_is_a_sentence() -> None:
    async def nowhere(host: str, port: int) -> Sequence[Address]:
        raise OSError

    with pytest.raises(InvalidInput, match=r"'no\.example\.org' is not known"):
        await check_http_url("https://no.example.org/", allow_private=False, resolver=nowhere)


async def test_a_name_server_that_does_not_answer_is_given_up_on() -> None:
    async def silent(host: str, port: int) -> Sequence[Address]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(InvalidInput, match=r"could not be looked up within 0\.05 s"):
        await check_http_url(
            f"https://{NAME}/", allow_private=False, resolver=silent, timeout_seconds=0.05
        )


async def test_a_redirect_to_a_private_address_is_refused(
    archive: str, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "is_public", lambda address: address == ip_address("127.0.0.1"))
    inside = f"http://127.0.0.2:{archive.rpartition(':')[2]}/grid.zip"
    with pytest.raises(InvalidInput, match=r"127\.0\.0\.2:.* leads to a private or local address"):
        await fetch(f"{archive}/to/{inside}", destination, allow_private=False)
    assert len(Archive.seen) == 1
    assert await fetch(f"{archive}/hops/2", destination, allow_private=False) == STORED


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("file:///etc/passwd", "must start with https://"),
        ("gopher://127.0.0.1:6379/", "must start with https://"),
        ("http://user:secret@127.0.0.1/", "user name or password"),
    ],
)
async def test_a_redirect_is_held_to_the_same_rules(
    archive: str, destination: Path, location: str, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence) as error:
        await fetch(f"{archive}/to/{location}", destination)
    assert "secret" not in str(error.value)


async def test_redirects_without_end_are_given_up_on(archive: str, destination: Path) -> None:
    with pytest.raises(InvalidInput, match=f"redirects more than {MAX_REDIRECTS} times"):
        await fetch(f"{archive}/loop/0", destination)
    assert len(Archive.seen) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("status", [204, 206, 304, 401, 403, 404, 500, 503])
async def test_any_other_answer_than_a_file_is_a_sentence_with_its_status(
    archive: str, destination: Path, status: int
) -> None:
    with pytest.raises(InvalidInput, match=f"answered {status} .*POST /data/upload"):
        await fetch(f"{archive}/status/{status}?signature=secret", destination)
    assert content(destination) is None


@pytest.mark.parametrize("path", ["truncated", "unfinished"])
async def test_a_file_that_comes_incomplete_is_an_error(
    archive: str, destination: Path, path: str
) -> None:
    await fetch(f"{archive}/grid.zip", destination)
    with pytest.raises(InvalidInput, match="broke off") as error:
        await fetch(f"{archive}/{path}?signature=secret", destination)
    assert "secret" not in str(error.value)
    assert content(destination) == CONTENT


@pytest.mark.parametrize("path", ["grid.zip", "chunked"])
async def test_a_file_that_is_too_large_is_refused(
    archive: str, destination: Path, path: str
) -> None:
    with pytest.raises(InvalidInput, match=f"larger than the {len(CONTENT) - 1} bytes"):
        await fetch(f"{archive}/{path}", destination, max_bytes=len(CONTENT) - 1)


async def test_a_server_that_stalls_is_given_up_on(archive: str, destination: Path) -> None:
    with pytest.raises(InvalidInput, match=r"sent nothing for 0\.05 s"):
        await fetch(f"{archive}/stalled", destination, stall_seconds=0.05)
    with pytest.raises(InvalidInput, match=r"did not arrive within 0\.05 s"):
        await fetch(f"{archive}/stalled", destination, timeout_seconds=0.05)


async def test_a_port_where_nobody_listens_is_a_sentence(destination: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot be reached \(no connection\)"):
        await fetch("http://127.0.0.1:1/grid.zip", destination)


async def test_a_compressed_answer_is_refused_rather_than_undone(
    archive: str, destination: Path
) -> None:
    with pytest.raises(InvalidInput, match="gzip-compressed"):
        await fetch(f"{archive}/zipped/grid.tif", destination)


async def test_a_file_that_is_itself_compressed_stays_so(archive: str, destination: Path) -> None:
    await fetch(f"{archive}/zipped/grid.tar.gz", destination)
    assert gzip.decompress(content(destination) or b"") == CONTENT


async def test_a_destination_that_cannot_be_written_is_our_fault(
    archive: str, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        await fetch(f"{archive}/grid.zip", tmp_path / "gone" / "grid.zip")


async def test_tls_is_verified_against_the_name_not_the_address(
    secure_port: int, destination: Path
) -> None:
    url = f"https://{NAME}:{secure_port}/grid.zip"
    assert await fetch(url, destination) == STORED
    assert Archive.seen[0]["host"] == f"{NAME}:{secure_port}"
    for other in ("other.example.org", "127.0.0.1"):
        with pytest.raises(InvalidInput, match="certificate is not valid"):
            await fetch(f"https://{other}:{secure_port}/grid.zip", destination)


async def test_a_redirect_from_https_to_http_is_refused(
    secure_port: int, destination: Path
) -> None:
    with pytest.raises(InvalidInput, match="without encryption"):
        await fetch(f"https://{NAME}:{secure_port}/to/http://{NAME}/grid.zip", destination)


async def test_pieces_are_counted_and_a_count_that_is_too_high_ends_the_download(
    archive: str, destination: Path
) -> None:
    counted: list[int] = []

    def count(size_bytes: int) -> None:
        counted.append(size_bytes)
        if sum(counted) > 2 * len(CONTENT):
            raise InvalidInput("too much together")

    for _ in range(2):
        await fetch_http(
            f"{archive}/chunked", destination, max_bytes=10**9, allow_private=True, count=count
        )
    assert sum(counted) == 2 * len(CONTENT)
    with pytest.raises(InvalidInput, match="too much together"):
        await fetch_http(
            f"{archive}/chunked", destination, max_bytes=10**9, allow_private=True, count=count
        )


@pytest.mark.parametrize(
    ("status", "is_absent"), [(403, True), (404, True), (410, True), (500, False)]
)
async def test_a_file_that_is_not_there_is_told_from_a_server_that_is_ill(
    archive: str, destination: Path, status: int, is_absent: bool
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await fetch(f"{archive}/status/{status}", destination)
    assert isinstance(refused.value, NothingThere) is is_absent
