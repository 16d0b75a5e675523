"""Settings come from the environment; what is unknown or does not fit is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissmodel_platform.errors import SettingsError
from dissmodel_platform.settings import Settings, load_settings


def test_defaults_work_on_a_laptop(home: Path) -> None:
    settings = load_settings()
    assert settings.home == home / ".local" / "share" / "dissmodel-platform"
    assert settings.configs_sync_interval == 900
    assert settings.api_keys == ()
    assert not settings.allow_local_registry
    assert not settings.allow_local_packages


def test_the_names_that_operators_know_are_read_without_a_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONFIGS_REPO", "https://git.example/configs.git")
    monkeypatch.setenv("CONFIGS_SYNC_INTERVAL", "60")
    monkeypatch.setenv("API_KEYS", " one, two ,,")
    settings = load_settings()
    assert settings.configs_repo == "https://git.example/configs.git"
    assert settings.configs_sync_interval == 60
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "hunter2")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@db/platform")
    assert "hunter2" not in repr(load_settings())


@pytest.mark.parametrize("name", ["PLATFORM_HOMES", "PLATFORM_CONFIGS_REPO", "PLATFORM_API_KEYS"])
def test_an_unknown_setting_is_refused_by_name(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings({name: "x"})


def test_a_value_that_does_not_fit_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_WORKER_SLOTS", "none")
    with pytest.raises(SettingsError, match="worker_slots"):
        load_settings()


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_WORKER_SLOTS", "3")
    assert load_settings(worker_slots=5).worker_slots == 5
    assert load_settings(worker_slots=None).worker_slots == 3


def test_directories_are_split_like_a_search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_INPUT_DIRECTORIES", "/data:/more data")
    assert load_settings().input_directories == (Path("/data"), Path("/more data"))


def test_every_setting_is_in_the_reference() -> None:
    reference = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
    text = reference.read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        variable = name.upper() if field.validation_alias else f"PLATFORM_{name.upper()}"
        assert f"`{variable}`" in text, f"{variable} is missing in {reference.name}"
