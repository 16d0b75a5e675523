"""Private registries: a token over https, a key over ssh, and where the secrets do not show up."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from dissmodel_platform.registry.git_config import GitCredentials
from dissmodel_platform.registry.git_faults import GitFailed, GitFault

TOKEN = "glpat-s3cr3t/with+odd=characters'\"$x"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Certificate and key of a host at 127.0.0.1 that signs for itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "host.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


class GitHost(ThreadingHTTPServer):
    """A git host over https that hands out one repository, to those who know the token."""

    daemon_threads = True

    def __init__(self, root: Path, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), GitHandler)
        self.root = root
        self.authorizations: list[str | None] = []
        self.redirect_to: str | None = None
        self.redirected = ("GET", "POST")
        self.token = TOKEN
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server_address[1]}/remote.git"

    def handle_error(self, request, client_address) -> None:
        """Stay silent: a client that refuses the certificate is a case of the tests."""


class GitHandler(BaseHTTPRequestHandler):
    server: GitHost
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def serve(self) -> None:
        self.server.authorizations.append(self.headers["Authorization"])
        if self.server.redirect_to is not None and self.command in self.server.redirected:
            self.send_response(302)
            self.send_header("Location", self.server.redirect_to + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        expected = base64.b64encode(f"x-access-token:{self.server.token}".encode()).decode()
        if self.headers["Authorization"] != f"Basic {expected}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        answer = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            check=True,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": self.headers["Git-Protocol"] or "",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers["Content-Type"] or "",
                "HTTP_CONTENT_ENCODING": self.headers["Content-Encoding"] or "",
                "REMOTE_USER": "x",
            },
        ).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        self.send_response(200)
        for line in head.decode().splitlines():
            self.send_header(*line.split(": ", 1))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def start_host(tmp_path, certificate) -> Iterator:
    hosts: list[GitHost] = []

    def start() -> GitHost:
        host = GitHost(tmp_path, certificate)
        threading.Thread(target=host.serve_forever, daemon=True).start()
        hosts.append(host)
        return host

    yield start
    for host in hosts:
        host.shutdown()
        host.server_close()


@pytest.fixture
def environ(certificate) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(certificate)}


CREDENTIALS = GitCredentials(token=SecretStr(TOKEN))


def test_a_token_opens_a_private_registry_and_is_written_nowhere(
    tmp_path, registry, make_mirror, start_host, environ
) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    mirror = make_mirror(start_host().url, credentials=CREDENTIALS, environ=environ)
    state = mirror.update()
    assert state.revision == commit
    assert TOKEN not in state.git_output
    written = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("token", [None, "wrong-token"])
def test_without_the_right_token_the_answer_says_so_and_not_the_token(
    registry, make_mirror, start_host, environ, token
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    credentials = GitCredentials(token=None if token is None else SecretStr(token))
    mirror = make_mirror(start_host().url, credentials=credentials, environ=environ)
    with pytest.raises(GitFailed, match="refused our credentials") as caught:
        mirror.update()
    error = caught.value
    assert error.fault is GitFault.AUTHENTICATION
    assert "wrong-token" not in f"{error} {error.command} {error.stderr_tail}"


def test_a_token_that_was_replaced_is_read_anew_and_neither_is_printed(
    tmp_path, registry, make_mirror, start_host, environ
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    host = start_host()
    mirror = make_mirror(host.url, credentials=GitCredentials(token_file=file), environ=environ)
    registry.commit({"a.toml": registry.model("a")})
    mirror.update()
    host.token = "the-next-token"
    new = registry.commit({"a.toml": registry.model("a", 2)})
    with pytest.raises(GitFailed, match="refused our credentials"):
        mirror.update()
    file.write_text("the-next-token\n")
    assert mirror.update().revision == new
    file.write_text("")
    with pytest.raises(GitFailed, match="token is empty") as caught:
        mirror.update()
    assert caught.value.fault is GitFault.AUTHENTICATION
    assert mirror._git._printable(f"{TOKEN} the-next-token") == "*** ***"


def test_a_redirect_to_another_host_does_not_get_the_token(
    registry, make_mirror, start_host, environ
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    thief = start_host()
    host = start_host()
    host.redirect_to = thief.url.removesuffix("/remote.git")
    mirror = make_mirror(host.url, credentials=CREDENTIALS, environ=environ)
    with pytest.raises(GitFailed):
        mirror.update()
    assert thief.authorizations
    assert set(thief.authorizations) == {None}


def test_a_redirect_in_the_middle_is_not_followed(
    registry, make_mirror, start_host, environ
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    other = start_host()
    host = start_host()
    host.redirect_to = other.url.removesuffix("/remote.git")
    host.redirected = ("POST",)
    mirror = make_mirror(host.url, credentials=CREDENTIALS, environ=environ)
    with pytest.raises(GitFailed):
        mirror.update()
    assert other.authorizations == [], "nobody asked the other host"


def test_a_certificate_that_nobody_vouches_for_is_refused(
    registry, make_mirror, start_host
) -> None:
    host = start_host()
    mirror = make_mirror(host.url, credentials=CREDENTIALS, environ={"PATH": os.environ["PATH"]})
    with pytest.raises(GitFailed) as caught:
        mirror.update()
    assert caught.value.fault is GitFault.TLS
    assert host.authorizations == []


SSH = """\
#!/bin/sh
# Takes ssh's options as ssh would, then runs the command here instead of over there.
printf '%s\\n' "$@" > {log}
for word; do command=$word; done
exec sh -c "$command"
"""


def test_ssh_gets_the_key_and_strict_options(tmp_path, registry, make_mirror) -> None:
    commit = registry.commit({"a.toml": registry.model("a")})
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH.format(log=tmp_path / "ssh.log"))
    program.chmod(0o755)
    credentials = GitCredentials(
        ssh_key=tmp_path / "key of ours", known_hosts=tmp_path / "known hosts"
    )
    mirror = make_mirror(
        f"git@example.org:{registry.directory}",
        credentials=credentials,
        environ={"PATH": f"{program.parent}:{os.environ['PATH']}"},
    )
    assert mirror.update().revision == commit
    words = (tmp_path / "ssh.log").read_text().splitlines()
    assert "BatchMode=yes" in words
    assert "StrictHostKeyChecking=yes" in words
    assert f'IdentityFile="{tmp_path}/key of ours"' in words
    assert "git@example.org" in words


def test_a_real_ssh_reads_the_options_and_reports_an_unreachable_host(
    tmp_path, make_mirror
) -> None:
    (tmp_path / "known hosts").write_text("")
    credentials = GitCredentials(
        ssh_key=tmp_path / "100% key", known_hosts=tmp_path / "known hosts"
    )
    mirror = make_mirror("ssh://git@127.0.0.1:9/a.git", credentials=credentials)
    with pytest.raises(GitFailed) as caught:
        mirror.update()
    assert caught.value.fault is GitFault.UNREACHABLE
    assert "option" not in caught.value.stderr_tail
