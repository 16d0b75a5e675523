"""What the settings say of the registry: where its mirror is, and whose signatures count."""

from __future__ import annotations

from pathlib import Path

from dissmodel_platform.errors import SettingsError
from dissmodel_platform.registry.git_config import GitCredentials
from dissmodel_platform.registry.mirror import Mirror
from dissmodel_platform.registry.signatures import SignaturePolicy
from dissmodel_platform.settings import Settings


def open_mirror(settings: Settings) -> Mirror:
    """Return the mirror of the registry that the settings name.

    Raises
    ------
    SettingsError
        None is named, or its address is refused.
    """
    if settings.configs_repo is None:
        raise SettingsError("No registry: set CONFIGS_REPO to the address of its git repository.")
    return Mirror(
        settings.mirror_directory,
        settings.configs_repo,
        settings.configs_branch,
        allow_local=settings.allow_local_registry,
        credentials=GitCredentials(
            token=settings.registry_token,
            token_file=_token_file(settings),
            ssh_key=settings.registry_ssh_key,
            known_hosts=settings.registry_known_hosts,
        ),
    )


def _token_file(settings: Settings) -> Path | None:
    if settings.registry_token_file is not None and settings.registry_token is not None:
        raise SettingsError(
            "Set PLATFORM_REGISTRY_TOKEN or PLATFORM_REGISTRY_TOKEN_FILE, not both."
        )
    return settings.registry_token_file


def signature_policy(settings: Settings) -> SignaturePolicy | None:
    """Return whose signatures count, or ``None`` where none are asked for.

    Raises
    ------
    SettingsError
        Signatures are asked for, and no usable list of signers is named.
    """
    if not settings.registry_require_signature:
        return None
    return SignaturePolicy(settings.registry_allowed_signers, settings.registry_keyring)
