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
    with pytest.raises(SettingsError, match=f"(?i){name}"):
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


def test_buckets_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_INPUT_BUCKETS", "maps, group-data")
    assert load_settings().input_buckets == ("maps", "group-data")


def variable_of(name: str) -> str:
    alias = Settings.model_fields[name].validation_alias
    return name.upper() if alias else f"PLATFORM_{name.upper()}"


NUMBERS = [name for name, field in Settings.model_fields.items() if field.annotation is float]
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_has_bounds_and_the_reference_tells_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = Settings.model_json_schema(by_alias=False)["properties"][name]
    lower, upper = bounds["minimum"], bounds["maximum"]
    variable = variable_of(name)
    for wrong in ("inf", "-inf", "nan", "1e300", "-1", str(upper * 1.01), str(lower - 0.01)):
        monkeypatch.setenv(variable, wrong)
        with pytest.raises(SettingsError, match=f"(?i){name}"):
            load_settings()
    for right in (lower, upper):
        monkeypatch.setenv(variable, str(right))
        assert getattr(load_settings(), name) == right
    (line,) = (
        line for line in REFERENCE.read_text("utf-8").splitlines() if f"`{variable}`" in line
    )
    assert f"{lower:.10g} to {upper:.10g}" in line


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_reference(name: str) -> None:
    assert f"`{variable_of(name)}`" in REFERENCE.read_text(encoding="utf-8")
