"""Only what a trusted key has signed is published, where the operator asks for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import SettingsError
from dissmodel_platform.experiments.queue import open_queue
from dissmodel_platform.registry.signatures import SignaturePolicy, UntrustedCommit
from dissmodel_platform.registry.sync_runs import last_runs
from dissmodel_platform.services.sync import RegistrySync
from dissmodel_platform.types import Revision
from tests.integration.registry.conftest import MakeMirror, Registry

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(database: Database) -> App:
    return await open_queue(database)


@pytest.fixture
def ssh_key(tmp_path: Path) -> Path:
    key = tmp_path / "maintainer"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "maintainer", "-f", str(key))
    return key


@pytest.fixture
def allowed_signers(tmp_path: Path, ssh_key: Path) -> Path:
    path = tmp_path / "allowed signers"
    public = ssh_key.with_suffix(".pub").read_text()
    path.write_text(f'a@example.org namespaces="git" {public}')
    return path


def _run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sign(registry: Registry, *options: str) -> str:
    """Replace the tip by the same tree, signed."""
    tree = registry.git("rev-parse", f"{registry.tip()}^{{tree}}")
    words = [word for option in options for word in ("-c", option)]
    oid = registry.git(*words, "commit-tree", "-S", "-m", "signed", tree)
    registry.git("update-ref", f"refs/heads/{registry.branch}", oid)
    return oid


def sign_with_ssh(registry: Registry, key: Path) -> str:
    return sign(registry, "gpg.format=ssh", f"user.signingKey={key}")


async def test_a_commit_signed_with_a_listed_ssh_key_is_published(
    database: Database,
    queue: App,
    registry: Registry,
    make_mirror: MakeMirror,
    ssh_key: Path,
    allowed_signers: Path,
) -> None:
    policy = SignaturePolicy(allowed_signers, None)
    sync = RegistrySync(database, queue, make_mirror(), signatures=policy)
    registry.commit({"a.toml": registry.model("a")})
    signed = sign_with_ssh(registry, ssh_key)
    run = await sync.run("test")
    assert (run.error, run.new_commit, run.added) == (None, signed, ["a"])


async def test_an_unsigned_commit_is_not_published_and_the_reason_is_shown(
    database: Database,
    queue: App,
    registry: Registry,
    make_mirror: MakeMirror,
    ssh_key: Path,
    allowed_signers: Path,
) -> None:
    policy = SignaturePolicy(allowed_signers, None)
    sync = RegistrySync(database, queue, make_mirror(), signatures=policy)
    registry.commit({"a.toml": registry.model("a")})
    signed = sign_with_ssh(registry, ssh_key)
    await sync.run("test")
    registry.commit({"a.toml": registry.model("a", 2)})
    run = await sync.run("test")
    assert run.outcome == "failed"
    assert "signature" in str(run.error)
    assert run.old_commit == signed


async def test_a_key_that_is_not_listed_does_not_count(
    database: Database,
    queue: App,
    registry: Registry,
    make_mirror: MakeMirror,
    tmp_path: Path,
    allowed_signers: Path,
) -> None:
    stranger = tmp_path / "stranger"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger))
    policy = SignaturePolicy(allowed_signers, None)
    sync = RegistrySync(database, queue, make_mirror(), signatures=policy)
    registry.commit({"a.toml": registry.model("a")})
    sign_with_ssh(registry, stranger)
    run = await sync.run("test")
    assert run.outcome == "failed"
    assert "not published" in str(run.error)


async def test_openpgp_keys_of_the_keyring_count_and_no_others(
    database: Database, queue: App, registry: Registry, make_mirror: MakeMirror, tmp_path: Path
) -> None:
    keyrings = {}
    homes = {}
    for name in ("maintainer", "stranger"):
        home = tmp_path / name
        home.mkdir(mode=0o700)
        gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet")
        _run(*gpg, "--passphrase", "", "--quick-gen-key", f"{name}@example.org", "ed25519", "sign")
        keyrings[name] = tmp_path / f"{name}.gpg"
        _run(*gpg, "--output", str(keyrings[name]), "--export")
        homes[name] = home
    policy = SignaturePolicy(None, keyrings["maintainer"])
    sync = RegistrySync(database, queue, make_mirror(), signatures=policy)
    try:
        for name, outcome in (("stranger", "failed"), ("maintainer", "published")):
            program = tmp_path / f"gpg-of-{name}"
            program.write_text(f'#!/bin/sh\nexec gpg --homedir "{homes[name]}" --batch "$@"\n')
            program.chmod(0o700)
            registry.commit({"a.toml": registry.model("a")})
            sign(registry, f"gpg.program={program}", f"user.signingKey={name}@example.org")
            run = await sync.run("test")
            assert run.outcome == outcome, run.error
    finally:
        for home in homes.values():
            _run("gpgconf", "--homedir", str(home), "--kill", "all")


async def test_signatures_asked_for_later_tell_of_the_commit_that_is_served(
    database: Database,
    queue: App,
    registry: Registry,
    make_mirror: MakeMirror,
    ssh_key: Path,
    allowed_signers: Path,
) -> None:
    unsigned = registry.commit({"a.toml": registry.model("a")})
    await RegistrySync(database, queue, make_mirror()).run("test")
    policy = SignaturePolicy(allowed_signers, None)
    sync = RegistrySync(database, queue, make_mirror(), signatures=policy)
    run = await sync.run("test")
    assert (run.outcome, run.old_commit) == ("failed", unsigned)
    assert f"Commit {unsigned} goes on being served" in str(run.error)
    assert (await last_runs(database))["error"] == run.error, "so /health gives it as a reason"
    sign_with_ssh(registry, ssh_key)
    assert (await sync.run("test")).outcome == "published"
    assert (await sync.run("test")).outcome == "unchanged"


async def test_a_signer_who_is_taken_off_the_list_counts_no_more(
    database: Database,
    queue: App,
    registry: Registry,
    make_mirror: MakeMirror,
    ssh_key: Path,
    allowed_signers: Path,
) -> None:
    sync = RegistrySync(
        *(database, queue, make_mirror()), signatures=SignaturePolicy(allowed_signers, None)
    )
    registry.commit({f"m{n}.toml": registry.model(f"m{n}") for n in range(6)})
    signed = sign_with_ssh(registry, ssh_key)
    await sync.run("test")
    listed = allowed_signers.read_text()
    allowed_signers.write_text("")
    assert f"{signed} goes on being served" in str((await sync.run("test")).error)
    unsigned = registry.commit({"m0.toml": registry.model("m0")})
    error = str((await sync.run("test")).error)
    assert f"{unsigned} is not published" in error
    assert f"{signed} goes on being served" in error
    allowed_signers.write_text(listed)
    error = str((await sync.run("test")).error)
    assert f"{unsigned} is not published" in error
    assert "goes on being served" not in error


async def test_a_commit_that_waits_does_not_hide_that_the_served_one_is_not_signed(
    database: Database,
    queue: App,
    registry: Registry,
    make_mirror: MakeMirror,
    ssh_key: Path,
    allowed_signers: Path,
) -> None:
    unsigned = registry.commit({f"m{n}.toml": registry.model(f"m{n}") for n in range(6)})
    await RegistrySync(database, queue, make_mirror()).run("test")
    policy = SignaturePolicy(allowed_signers, None)
    registry.commit({"m0.toml": registry.model("m0")})
    sign_with_ssh(registry, ssh_key)
    run = await RegistrySync(database, queue, make_mirror(), signatures=policy).run("test")
    assert run.outcome == "held"
    assert f"{unsigned} goes on being served" in str(run.error)


async def test_a_damaged_mirror_is_mended_before_the_served_commit_is_distrusted(
    database: Database,
    queue: App,
    registry: Registry,
    make_mirror: MakeMirror,
    ssh_key: Path,
    allowed_signers: Path,
) -> None:
    policy = SignaturePolicy(allowed_signers, None)
    sync = RegistrySync(database, queue, make_mirror(), signatures=policy)
    registry.commit({"a.toml": registry.model("a")})
    sign_with_ssh(registry, ssh_key)
    await sync.run("test")
    packs = list(make_mirror().directory.glob("objects/pack/*.pack"))
    assert packs
    for pack in packs:
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[:12] + bytes(pack.stat().st_size - 12))
    run = await sync.run("test")
    assert (run.error, run.outcome) == (None, "unchanged")


async def test_an_ssh_key_past_its_day_does_not_count(
    registry: Registry, make_mirror: MakeMirror, ssh_key: Path, allowed_signers: Path
) -> None:
    registry.commit({"a.toml": registry.model("a")})
    revision = Revision(sign_with_ssh(registry, ssh_key))
    mirror = make_mirror()
    mirror.update()
    policy = SignaturePolicy(allowed_signers, None)
    mirror.verify(revision, policy)
    listed = allowed_signers.read_text()
    allowed_signers.write_text(listed.replace(" namespaces", ' valid-before="20200101",namespaces'))
    with pytest.raises(UntrustedCommit):
        mirror.verify(revision, policy)


@pytest.mark.parametrize("what", ["expired", "revoked"])
async def test_an_openpgp_key_that_is_no_longer_good_does_not_count(
    registry: Registry, make_mirror: MakeMirror, tmp_path: Path, what: str
) -> None:
    home = tmp_path / "maintainer"
    home.mkdir(mode=0o700)
    then = "20200101T000000!"
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--yes")
    make = ("--passphrase", "", "--quick-gen-key", "maintainer@example.org", "ed25519", "sign")
    keyring = tmp_path / "keyring.gpg"
    program = tmp_path / "gpg-of-the-maintainer"
    program.write_text(
        f'#!/bin/sh\nexec gpg --homedir "{home}" --batch --faked-system-time {then} "$@"\n'
    )
    program.chmod(0o700)
    try:
        _run(*gpg, "--faked-system-time", then, *make, "7d" if what == "expired" else "never")
        registry.commit({"a.toml": registry.model("a")})
        revision = Revision(
            sign(registry, f"gpg.program={program}", "user.signingKey=maintainer@example.org")
        )
        mirror = make_mirror()
        mirror.update()
        if what == "revoked":
            _run(*gpg, "--output", str(keyring), "--export")
            mirror.verify(revision, SignaturePolicy(None, keyring))
            (certificate,) = (home / "openpgp-revocs.d").glob("*.rev")
            certificate.write_text(certificate.read_text().replace(":-----BEGIN", "-----BEGIN"))
            _run(*gpg, "--import", str(certificate))
        _run(*gpg, "--output", str(keyring), "--export")
        with pytest.raises(UntrustedCommit):
            mirror.verify(revision, SignaturePolicy(None, keyring))
    finally:
        _run("gpgconf", "--homedir", str(home), "--kill", "all")


async def test_good_openpgp_signatures_count_where_nothing_temporary_can_be_run(
    registry: Registry, make_mirror: MakeMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,size=8m", "none", str(temporary)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system")
    home = tmp_path / "maintainer"
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet")
    keyring = tmp_path / "keyring.gpg"
    program = tmp_path / "gpg-of-the-maintainer"
    program.write_text(f'#!/bin/sh\nexec gpg --homedir "{home}" --batch "$@"\n')
    program.chmod(0o700)
    try:
        make = ("--passphrase", "", "--quick-gen-key", "maintainer@example.org", "ed25519", "sign")
        _run(*gpg, *make)
        _run(*gpg, "--output", str(keyring), "--export")
        registry.commit({"a.toml": registry.model("a")})
        revision = sign(
            registry, f"gpg.program={program}", "user.signingKey=maintainer@example.org"
        )
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        mirror = make_mirror(environ={**os.environ, "TMPDIR": str(temporary)})
        mirror.update()
        mirror.verify(Revision(revision), SignaturePolicy(None, keyring))
    finally:
        _run("gpgconf", "--homedir", str(home), "--kill", "all")
        _run("umount", str(temporary))


async def test_a_signature_that_the_systems_authorities_vouch_for_does_not_count(
    registry: Registry, make_mirror: MakeMirror, tmp_path: Path, allowed_signers: Path
) -> None:
    program = tmp_path / "bin" / "gpgsm"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\ntouch {tmp_path}/asked\ncat > /dev/null\n"
        "printf '\\n[GNUPG:] GOODSIG 0123456789ABCDEF Somebody\\n[GNUPG:] TRUST_FULLY 0 shell\\n'\n"
    )
    program.chmod(0o755)
    tree = registry.git("rev-parse", f"{registry.commit({'a.toml': 'x'})}^{{tree}}")
    who = "A <a@example.org> 1700000000 +0000"
    signature = "-----BEGIN SIGNED MESSAGE-----\n MIAG\n -----END SIGNED MESSAGE-----"
    head = f"tree {tree}\nauthor {who}\ncommitter {who}\n"
    revision = registry.write_object("commit", f"{head}gpgsig {signature}\n\nsigned\n".encode())
    registry.reset(revision)
    mirror = make_mirror(environ={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"})
    mirror.update()
    with pytest.raises(UntrustedCommit):
        mirror.verify(Revision(revision), SignaturePolicy(allowed_signers, None))
    assert not (tmp_path / "asked").exists()


def test_asking_for_signatures_without_a_list_is_refused() -> None:
    with pytest.raises(SettingsError, match="ALLOWED_SIGNERS"):
        SignaturePolicy(None, None)
    with pytest.raises(SettingsError, match="not there"):
        SignaturePolicy(Path("/nonexistent"), None)
