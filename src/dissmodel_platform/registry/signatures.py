"""Signed commits: publish only what somebody on the operator's list has signed.

git itself verifies (``git verify-commit``). For SSH it looks the key up in an allowed-signers file
(ssh-keygen(1), ALLOWED SIGNERS); for OpenPGP it asks gpg, which here sees the operator's keyring
and nothing else, and trusts every key in it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.errors import RegistryError, SettingsError
from dissmodel_platform.registry.git import Git
from dissmodel_platform.types import Revision

_KEYRING = "trusted.gpg"
_GPG_CONF = f"""\
batch
no-tty
no-autostart
disable-dirmngr
no-default-keyring
keyring {_KEYRING}
trust-model always
"""
_NO_PROGRAM = "/nonexistent/x509-signatures-do-not-count"


class UntrustedCommit(RegistryError):
    """The commit is not signed, or by nobody on the list; what is published stays.

    Parameters
    ----------
    message : str
        What became of the commit, and what to do.
    reason : str
        What git said of the signature.
    """

    code = "untrusted-commit"
    title = "Commit not signed by a trusted key"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


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
    GitFailed
        The commit cannot be read.
    """
    signers = policy.allowed_signers or Path("/dev/null")
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        _furnish(Path(home), policy.keyring)
        verified = git.run(
            "-c", f"gpg.ssh.allowedSignersFile={signers.absolute()}",
            # gpgsm would trust whom the system trusts.
            "-c", f"gpg.x509.program={_NO_PROGRAM}",
            "verify-commit", "--raw", revision,
            directory=directory, expected=(0, 1, 128), variables={"GNUPGHOME": home},
        )  # fmt: skip
    if verified.exit_code == 0:
        return
    git.run("cat-file", "commit", revision, directory=directory)  # it is readable, or this fails
    said = [line for line in verified.stderr.splitlines() if line.strip()]
    reason = said[-1].removeprefix("[GNUPG:] ").strip() if said else "it has no signature"
    raise UntrustedCommit(
        f"Commit {revision} is not published: it carries no good signature of a trusted key "
        f"({reason}). Sign it with a key that the operator's list holds, or add the key to it.",
        reason=reason,
    )


def _furnish(home: Path, keyring: Path | None) -> None:
    """Write what gpg reads in its home: one keyring, which is copied, as gpg writes beside it.

    All is said in the configuration, since git takes a program and no options for it; a program of
    our own could not be run where the temporary directory is mounted without that right.
    """
    (home / _KEYRING).write_bytes(keyring.read_bytes() if keyring is not None else b"")
    (home / "gpg.conf").write_text(_GPG_CONF, encoding="utf-8")
