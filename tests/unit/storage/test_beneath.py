"""Files below listed directories: what is opened lies there, also when links move meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.storage import beneath
from dissmodel_platform.storage.beneath import names_beside, open_beneath


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Return a listed directory with a file, a directory, links, and a secret beside it."""
    directory = tmp_path / "listed"
    (directory / "deep" / "er").mkdir(parents=True)
    (directory / "deep" / "er" / "grid.tif").write_text("inside")
    (directory / "link.tif").symlink_to("deep/er/grid.tif")
    (directory / "way").symlink_to(directory / "deep")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "grid.tif").write_text("secret")
    (directory / "outside.tif").symlink_to(tmp_path / "secret" / "grid.tif")
    (directory / "circle").symlink_to("circle")
    os.mkfifo(directory / "pipe")
    return directory


def read(path: Path, *directories: Path) -> str:
    with open_beneath(path, directories) as file:
        return file.read().decode()


@pytest.mark.parametrize(
    "way", ["deep/er/grid.tif", "link.tif", "way/er/grid.tif", "deep/../deep/er/grid.tif"]
)
def test_a_file_below_is_opened_also_by_links_that_stay_below(listed: Path, way: str) -> None:
    assert read(listed / way, listed.parent / "other", listed) == "inside"


def test_a_listed_directory_may_be_reached_by_a_link(listed: Path) -> None:
    link = listed.parent / "mounted"
    link.symlink_to(listed)
    assert read(link / "link.tif", link) == "inside"
    assert read(listed / "link.tif", link) == "inside"


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("outside.tif", "PLATFORM_INPUT_DIRECTORIES"),
        ("../secret/grid.tif", "PLATFORM_INPUT_DIRECTORIES"),
        ("../listed-too/grid.tif", "PLATFORM_INPUT_DIRECTORIES"),
        ("none.tif", "There is no file"),
        ("deep/none/grid.tif", "There is no file"),
        ("deep", "not an ordinary file"),
        ("", "not an ordinary file"),
        ("pipe", "not an ordinary file"),
        ("link.tif/x", "cannot be read"),
        ("\0", "cannot be read"),
        ("\ud800", "cannot be read"),
        ("x" * 300, "cannot be read"),
    ],
)
def test_anything_else_is_a_sentence(listed: Path, way: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read(listed / way, listed)


def test_a_circle_of_links_and_a_relative_path_are_sentences(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput):
        read(listed / "circle", listed)
    monkeypatch.chdir(listed)
    with pytest.raises(InvalidInput, match="does not read its own path"):
        read(Path("link.tif"), listed)


@pytest.mark.parametrize("swapped", ["deep", "deep/er", "deep/er/grid.tif"])
def test_a_link_that_is_put_in_the_way_after_the_check_is_not_followed(
    listed: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    secret = listed.parent / "secret"
    (secret / "er").mkdir()
    (secret / "er" / "grid.tif").write_text("secret")
    target = {
        "deep": secret, "deep/er": secret, "deep/er/grid.tif": secret / "grid.tif"
    }[swapped]  # fmt: skip
    real: Callable[..., Any] = beneath._place

    def then_swap(*arguments: Any) -> Any:
        place = real(*arguments)
        (listed / swapped).rename(listed.parent / "taken")
        (listed / swapped).symlink_to(target)
        return place

    monkeypatch.setattr(beneath, "_place", then_swap)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(listed / "deep" / "er" / "grid.tif", listed)


def test_nothing_stays_open(listed: Path) -> None:
    before = list(Path("/proc/self/fd").iterdir())
    read(listed / "link.tif", listed)
    for way in ("none/x", "deep", "pipe", "outside.tif"):
        with pytest.raises(InvalidInput):
            read(listed / way, listed)
    names_beside(listed / "link.tif", [listed])
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)


def test_the_names_beside_are_those_of_the_path_and_not_of_what_it_leads_to(listed: Path) -> None:
    assert "pipe" in names_beside(listed / "link.tif", [listed])
    assert names_beside(listed / "way" / "er" / "any", [listed]) == ["grid.tif"]
    with pytest.raises(InvalidInput, match="PLATFORM_INPUT_DIRECTORIES"):
        names_beside(listed.parent / "secret" / "grid.tif", [listed])
