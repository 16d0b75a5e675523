"""Signed commits: publish only what somebody on the operator's list has signed.

git itself verifies (``git verify-commit``). For SSH it looks the key up in an allowed-signers file
(ssh-keygen(1), ALLOWED SIGNERS); for OpenPGP it asks gpg, which here sees the operator's keyring
and nothing else, and trusts every key in it.
"""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.errors import RegistryError, SettingsError
from dissmodel_platform.registry.git import Git
from dissmodel_platform.types import Revision

_GPG = """#!/bin/sh
exec gpg --homedir {home} --batch --no-autostart --no-default-keyring --keyring {keyring} \\
  --trust-model always "$@"
"""


class UntrustedCommit(RegistryError):
    """The commit is not signed, or by nobody on the list; what is published stays."""

    code = "untrusted-commit"
    title = "Commit not signed by a trusted key"


@dataclass(frozen=True)
class SignaturePolicy:
    """Whose signatures count.

    Parameters
    ----------
    allowed_signers : Path or None
        SSH keys, in the form of ssh-keygen's allowed-signers file.
    keyring : Path or None
        OpenPGP keys, as ``gpg --export`` writes them.

    Raises
    ------
    SettingsError
        Neither is given, or one is not there.
    """

    allowed_signers: Path | None
    keyring: Path | None

    def __post_init__(self) -> None:
        if self.allowed_signers is None and self.keyring is None:
            raise SettingsError(
                "PLATFORM_REGISTRY_REQUIRE_SIGNATURE needs PLATFORM_REGISTRY_ALLOWED_SIGNERS (SSH) "
                "or PLATFORM_REGISTRY_KEYRING (OpenPGP)."
            )
        for path in (self.allowed_signers, self.keyring):
            if path is not None and not path.is_file():
                raise SettingsError(f"The signers' file {path} is not there.")


def check_signature(git: Git, directory: Path, revision: Revision, policy: SignaturePolicy) -> None:
    """Refuse a commit without a good signature of a trusted key.

    Parameters
    ----------
    git : Git
        The runner of the mirror's commands.
    directory : Path
        The bare repository.

    Raises
    ------
    UntrustedCommit
        Says what git said of the signature.
    """
    signers = policy.allowed_signers or Path("/dev/null")
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        verified = git.run(
            "-c", f"gpg.ssh.allowedSignersFile={signers.absolute()}",
            "-c", f"gpg.program={_gpg_program(Path(home), policy.keyring)}",
            "verify-commit", "--raw", revision,
            directory=directory, expected=(0, 1, 128),
        )  # fmt: skip
    if verified.exit_code == 0:
        return
    said = [line for line in verified.stderr.splitlines() if line.strip()]
    reason = said[-1].removeprefix("[GNUPG:] ").strip() if said else "it has no signature"
    raise UntrustedCommit(
        f"Commit {revision} is not published: it carries no good signature of a trusted key "
        f"({reason}). Sign it with a key that the operator's list holds, or add the key to it."
    )


def _gpg_program(home: Path, keyring: Path | None) -> Path:
    """Write the program that git calls for OpenPGP: gpg with one keyring and a home of its own.

    The keyring is copied: gpg writes lock files beside the one it reads.
    """
    own = home / "trusted.gpg"
    own.write_bytes(keyring.read_bytes() if keyring is not None else b"")
    program = home / "gpg"
    program.write_text(_GPG.format(home=shlex.quote(str(home)), keyring=shlex.quote(str(own))))
    program.chmod(0o700)
    return program
