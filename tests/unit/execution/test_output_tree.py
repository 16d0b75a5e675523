"""What a model left is listed within limits, and opened as what it was listed as."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dissmodel_platform.errors import ModelFailed
from dissmodel_platform.execution.output_tree import DEEPEST, Listing, OutputLimits, OutputTree


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    directory = tmp_path / "outputs"
    directory.mkdir()
    return directory


def write(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def listing_of(directory: Path, limits: OutputLimits | None = None) -> Listing:
    with OutputTree(directory) as tree:
        return tree.list(limits or OutputLimits())


def read(tree: OutputTree, name: str) -> bytes:
    with tree.open(name) as descriptor:
        return os.read(descriptor, 1000)


def test_files_are_listed_by_their_names_below_the_directory(outputs: Path) -> None:
    write(outputs, "b.txt", "a/z.txt", "a/deep/er/c.txt", ".hidden", "maré.txt", "two\nlines")
    (outputs / "empty").mkdir()
    found = listing_of(outputs)
    assert found.files == [
        ".hidden", "a/deep/er/c.txt", "a/z.txt", "b.txt", "maré.txt", "two\nlines",
    ]  # fmt: skip
    assert found.refused == {}


def test_links_and_special_files_are_refused_and_not_followed(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "elsewhere", "secret.txt")
    write(outputs, "kept.txt", "below/kept.txt")
    (outputs / "to-a-file").symlink_to(tmp_path / "elsewhere" / "secret.txt")
    (outputs / "to-a-directory").symlink_to(tmp_path / "elsewhere")
    (outputs / "below" / "to-the-top").symlink_to("..")
    (outputs / "to-nothing").symlink_to("nowhere")
    (outputs / "to-itself").symlink_to("to-itself")
    (outputs / "to-a-sibling").symlink_to("kept.txt")
    os.mkfifo(outputs / "a-fifo")
    os.mkfifo(outputs / "below" / "a-fifo")
    monkeypatch.chdir(outputs)  # an address of a socket must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("a-socket")
        found = listing_of(outputs)
    assert found.files == ["below/kept.txt", "kept.txt"]
    assert list(found.refused) == [
        "a-fifo",
        "a-socket",
        "below/a-fifo",
        "below/to-the-top",
        "to-a-directory",
        "to-a-file",
        "to-a-sibling",
        "to-itself",
        "to-nothing",
    ]
    assert set(found.refused.values()) == {"is no regular file and was not collected."}


def test_another_name_of_a_file_elsewhere_is_refused(outputs: Path, tmp_path: Path) -> None:
    write(tmp_path, "api-key")
    write(outputs, "kept.txt")
    (outputs / "mine").hardlink_to(tmp_path / "api-key")
    found = listing_of(outputs)
    assert found.files == ["kept.txt"]
    assert "a hard link" in found.refused["mine"]


def test_more_files_than_allowed_are_not_even_listed(outputs: Path) -> None:
    write(outputs, "a", "b/c", "b/d")
    assert len(listing_of(outputs, OutputLimits(files=4)).files) == 3
    with pytest.raises(ModelFailed, match=r"more than 3 files.*PLATFORM_OUTPUT_MAX_FILES"):
        listing_of(outputs, OutputLimits(files=3))


def test_empty_directories_count_as_well(outputs: Path) -> None:
    for number in range(5):
        (outputs / str(number)).mkdir()
    with pytest.raises(ModelFailed, match="more than 4 files"):
        listing_of(outputs, OutputLimits(files=4))


def test_more_bytes_than_allowed_fail_also_where_the_files_have_holes(outputs: Path) -> None:
    for name in ("a", "b"):
        with (outputs / name).open("wb") as file:
            file.truncate(600)
    assert len(listing_of(outputs, OutputLimits(size_bytes=1200)).files) == 2
    with pytest.raises(ModelFailed, match="PLATFORM_OUTPUT_MAX_BYTES"):
        listing_of(outputs, OutputLimits(size_bytes=1199))


def test_directories_that_are_nested_without_end_fail_and_leave_nothing_open(outputs: Path) -> None:
    place = outputs
    for _ in range(DEEPEST + 1):
        place = place / "d"
        place.mkdir()
    before = os.listdir("/dev/fd")  # noqa: PTH208
    with pytest.raises(ModelFailed, match="within one another"):
        listing_of(outputs)
    assert os.listdir("/dev/fd") == before  # noqa: PTH208


def test_what_was_listed_is_opened_below_the_directory(outputs: Path) -> None:
    write(outputs, "a/b/c.txt", "d.txt")
    with OutputTree(outputs) as tree:
        assert read(tree, "a/b/c.txt") == b"a/b/c.txt"
        assert read(tree, "d.txt") == b"d.txt"


def test_a_directory_that_is_swapped_for_a_link_after_the_listing_is_not_followed(
    outputs: Path, tmp_path: Path
) -> None:
    write(tmp_path / "elsewhere", "c.txt")
    write(outputs, "a/c.txt")
    with OutputTree(outputs) as tree:
        assert tree.list(OutputLimits()).files == ["a/c.txt"]
        (outputs / "a").rename(outputs / "old")
        (outputs / "a").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ModelFailed, match=r"'a/c\.txt' cannot be collected"):
            read(tree, "a/c.txt")


@pytest.mark.parametrize("swap", ["link", "hard link", "pipe", "directory", "nothing"])
def test_a_file_that_is_swapped_after_the_listing_is_not_read(
    outputs: Path, tmp_path: Path, swap: str
) -> None:
    write(tmp_path, "secret")
    write(outputs, "a")
    before = os.listdir("/dev/fd")  # noqa: PTH208
    with OutputTree(outputs) as tree:
        assert tree.list(OutputLimits()).files == ["a"]
        (outputs / "a").unlink()
        if swap == "link":
            (outputs / "a").symlink_to(tmp_path / "secret")
        elif swap == "hard link":
            (outputs / "a").hardlink_to(tmp_path / "secret")
        elif swap == "pipe":
            os.mkfifo(outputs / "a")
        elif swap == "directory":
            (outputs / "a").mkdir()
        with pytest.raises(ModelFailed, match="'a' cannot be collected"):
            read(tree, "a")
    assert os.listdir("/dev/fd") == before  # noqa: PTH208


def test_a_directory_that_was_moved_away_whole_is_still_the_one_that_is_read(
    outputs: Path, tmp_path: Path
) -> None:
    write(tmp_path / "elsewhere", "a")
    write(outputs, "a")
    with OutputTree(outputs) as tree:
        outputs.rename(tmp_path / "moved")
        outputs.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "a").write_text("other")
        assert read(tree, "a") == b"a"


def test_a_run_that_replaced_its_directory_by_a_link_fails(outputs: Path, tmp_path: Path) -> None:
    outputs.rmdir()
    outputs.symlink_to(tmp_path)
    with pytest.raises(ModelFailed, match="working directory"):
        OutputTree(outputs)
