"""The templates that ``up`` and ``demo`` start from."""

from __future__ import annotations

import tomllib

import pytest

from dissmodel_platform.templates import template_directory


def test_the_registry_template_holds_the_models_and_a_catalogue() -> None:
    registry = template_directory("dissmodel-configs")
    models = {path.stem: tomllib.loads(path.read_text()) for path in registry.glob("models/*.toml")}
    assert models.keys() == {"flood_vector", "game_of_life"}
    assert models["flood_vector"]["model"]["parameters"] == {"taxa_elevacao": 0.5, "end_time": 10}
    assert "package" not in models["game_of_life"]["model"]
    assert (registry / "catalog.yaml").is_file()
    assert (registry / "README.md").is_file()


def test_the_example_is_a_package_with_data() -> None:
    example = template_directory("coastal-flood")
    for name in ("pyproject.toml", "coastal_flood/flood_executor.py", "data/grid.zip"):
        assert (example / name).is_file()


def test_an_unknown_template_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        template_directory("nothing")
