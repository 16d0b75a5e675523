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
from dissmodel_platform.registry.signatures import SignaturePolicy
from dissmodel_platform.services.sync import RegistrySync
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


def test_asking_for_signatures_without_a_list_is_refused() -> None:
    with pytest.raises(SettingsError, match="ALLOWED_SIGNERS"):
        SignaturePolicy(None, None)
    with pytest.raises(SettingsError, match="not there"):
        SignaturePolicy(Path("/nonexistent"), None)
