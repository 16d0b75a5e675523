"""How the registry's settings become a mirror and a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissmodel_platform.errors import SettingsError
from dissmodel_platform.services.sync_settings import open_mirror, signature_policy
from dissmodel_platform.settings import Settings, load_settings

ADDRESS = "https://git.example.org/group/configs.git"


def settings(tmp_path: Path, **values: object) -> Settings:
    return load_settings(home=tmp_path / "home", configs_repo=ADDRESS, **values)


def test_a_token_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a-token\n")
    open_mirror(settings(tmp_path, registry_token="a-token"))
    open_mirror(settings(tmp_path, registry_token_file=file))
    with pytest.raises(SettingsError, match="not both"):
        open_mirror(settings(tmp_path, registry_token="a-token", registry_token_file=file))


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing-token"):
        open_mirror(settings(tmp_path, registry_token_file=tmp_path / "missing-token"))


@pytest.mark.parametrize(
    "address",
    [
        "--upload-pack=touch /tmp/owned",
        "ext::sh -c touch% /tmp/owned",
        "file:///srv/configs",
        "/srv/configs",
        "https://user:hunter2@git.example.org/configs.git",
        "http://git.example.org/configs.git",
    ],
)
def test_an_address_that_could_do_harm_is_refused_and_not_repeated(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        open_mirror(load_settings(home=tmp_path, configs_repo=address))
    assert "hunter2" not in str(caught.value)


def test_without_a_registry_the_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="CONFIGS_REPO"):
        open_mirror(load_settings(home=tmp_path))


def test_signatures_are_asked_for_only_where_the_operator_says(tmp_path: Path) -> None:
    signers = tmp_path / "signers"
    signers.write_text("")
    assert signature_policy(settings(tmp_path, registry_allowed_signers=signers)) is None
    policy = signature_policy(
        settings(tmp_path, registry_require_signature=True, registry_allowed_signers=signers)
    )
    assert policy is not None
    with pytest.raises(SettingsError, match="ALLOWED_SIGNERS"):
        signature_policy(settings(tmp_path, registry_require_signature=True))
