"""The wheel in clean environments: the base install is the client, ``[server]`` brings the rest."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.acceptance.support import Up

CHECKOUT = Path(__file__).parents[2]
SOURCE = CHECKOUT / "src" / "dissmodel_platform"
INTO_THE_WHEEL = ("src", "dissmodel-configs", "examples", "pyproject.toml", "README.md", "LICENSE")
SERVER_LIBRARIES = ("fastapi", "psycopg", "uvicorn", "procrastinate", "obstore", "uv")
LIBRARIES_OF_MODELS = ("dissmodel", "geopandas", "pandas", "numpy", "rasterio", "matplotlib")
RUN_ELSEWHERE = ("builtin_executors", "execution/harness", "cli/draw_map.py")


def run(*command: object, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make the place of everything that this module builds and installs."""
    directory = tmp_path_factory.mktemp("install")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def cache(place: Path) -> dict[str, str]:
    """Give the installs of this module one package cache."""
    return {"UV_CACHE_DIR": str(place / "cache"), "UV_LINK_MODE": "hardlink"}


@pytest.fixture(scope="module")
def wheel(place: Path, cache: dict[str, str]) -> Path:
    """Build the wheel from a checkout in which somebody has worked."""
    checkout = place / "checkout"
    checkout.mkdir()
    for name in INTO_THE_WHEEL:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, checkout / name)
        else:
            shutil.copy(CHECKOUT / name, checkout)
    example = checkout / "examples" / "coastal-flood"
    for left_over in (
        "coastal_flood/__pycache__/grid.cpython-311.pyc",
        "outputs/flood.gpkg",
        ".pytest_cache/README.md",
        ".venv/bin/python",
        "coastal_flood.egg-info/PKG-INFO",
        "dist/coastal_flood-0.1.0.tar.gz",
    ):
        path = example / left_over
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left over")
    build = ("build", "--wheel", "--no-build-isolation", "--python", sys.executable)
    run(find_uv_bin(), *build, "--out-dir", checkout / "dist", checkout, **cache)
    (built,) = (checkout / "dist").glob("*.whl")
    return built


def make_environment(directory: Path, requirement: str, cache: dict[str, str]) -> Path:
    """Make an environment with one requirement and return its ``bin``."""
    run(find_uv_bin(), "venv", "--python", sys.executable, directory, **cache)
    install = ("pip", "install", "--python", directory / "bin" / "python")
    constraint = ("--constraint", CHECKOUT / "requirements.lock")
    run(find_uv_bin(), *install, *constraint, requirement, **cache)
    return directory / "bin"


@pytest.fixture(scope="module")
def base(place: Path, wheel: Path, cache: dict[str, str]) -> Path:
    """Install the wheel alone."""
    return make_environment(place / "base", str(wheel), cache)


@pytest.fixture(scope="module")
def server(place: Path, wheel: Path, cache: dict[str, str]) -> Path:
    """Install the wheel with the extra."""
    return make_environment(place / "server", f"{wheel}[server]", cache)


def test_the_wheel_holds_code_and_templates_and_nothing_left_over(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "dissmodel_platform/py.typed",
        "dissmodel_platform/database/migrations/0001_initial.sql",
        "dissmodel_platform/builtin_executors/pyproject.toml",
        "dissmodel_platform/_templates/dissmodel-configs/models/flood_vector.toml",
        "dissmodel_platform/_templates/coastal-flood/coastal_flood/flood_executor.py",
        "dissmodel_platform/_templates/coastal-flood/data/grid.zip",
        "dissmodel_platform/_templates/coastal-flood/pyproject.toml",
    ):
        assert wanted in names
    unwanted = ("__pycache__", "outputs/", ".pytest_cache", ".venv", ".egg-info", "/dist/", ".pyc")
    assert [name for name in names if any(part in name for part in unwanted)] == []
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dissmodel_platform"}


def test_the_base_install_is_the_client_and_its_command_line(base: Path, platform: Up) -> None:
    for program in ("dissmodel-platform", "dmp"):
        assert "submit" in run(base / program, "--help").stdout
    listed = run(base / "dmp", "models", "--url", platform.url, "--key", platform.key).stdout
    assert "flood_vector" in listed
    for name in SERVER_LIBRARIES:
        run(base / "python", "-c", f"import {name}", code=1)
    ask = "from dissmodel_platform.client.platform import Platform; import sys; "
    ask += "print(Platform(*sys.argv[1:]).health()['status'])"
    assert run(base / "python", "-c", ask, platform.url, platform.key).stdout == "healthy\n"


@pytest.mark.parametrize(
    "command", [("up",), ("up", "--port", "80"), ("demo",), ("worker",), ("registry", "sync")]
)
def test_the_base_install_says_which_extra_a_server_command_needs(
    base: Path, command: tuple[str, ...]
) -> None:
    done = run(base / "dissmodel-platform", *command, code=1)
    (line,) = done.stderr.strip().splitlines()
    assert "pip install 'dissmodel-platform[server]'" in line
    assert command[0] in line


def test_the_server_install_has_its_commands_and_finds_its_templates(server: Path) -> None:
    assert "--workers" in run(server / "dissmodel-platform", "up", "--help").stdout
    assert "watch" in run(server / "dissmodel-platform", "registry", "sync", "--help").stdout
    find = "from dissmodel_platform.templates import template_directory as t; "
    find += "print(t('dissmodel-configs')); print(t('coastal-flood'))"
    configs, example = run(server / "python", "-c", find).stdout.splitlines()
    assert "site-packages" in configs
    assert (Path(configs) / "models" / "flood_vector.toml").is_file()
    assert (Path(example) / "coastal_flood" / "flood_executor.py").is_file()


def test_the_server_never_imports_what_models_need(server: Path) -> None:
    modules = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCE.rglob("*.py")
        if not _runs_elsewhere(path) and path.name != "__main__.py"
    ]
    load = "import importlib, json, sys; [importlib.import_module(m) for m in sys.argv[1:]]; "
    load += "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    loaded = set(json.loads(run(server / "python", "-c", load, *modules).stdout))
    assert loaded >= {"dissmodel_platform", "fastapi", "psycopg"}
    assert not loaded & set(LIBRARIES_OF_MODELS)


def test_nothing_of_the_server_names_a_library_of_models_in_an_import() -> None:
    for path in SOURCE.rglob("*.py"):
        if _runs_elsewhere(path):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            packages = {name.partition(".")[0] for name in names}
            assert not packages & set(LIBRARIES_OF_MODELS), path


def _runs_elsewhere(path: Path) -> bool:
    """Say whether a file is run by a model's own Python."""
    return path.relative_to(SOURCE).as_posix().startswith(RUN_ELSEWHERE)
