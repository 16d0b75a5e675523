"""Directories for work in progress leave nothing, whoever dies in them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dissmodel_platform.environments.scratch import (
    read_made,
    remove_tree,
    scratch_directory,
    sweep,
)

HOLDS = """
import sys, time
from pathlib import Path
from dissmodel_platform.environments.scratch import scratch_directory
with scratch_directory(Path(sys.argv[1])) as scratch:
    (scratch / "file").write_text("x")
    print(scratch, flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(KeyError), scratch_directory(tmp_path / "scratch") as directory:
        (directory / "file").write_text("x")
        raise KeyError
    assert list((tmp_path / "scratch").iterdir()) == []


def test_work_that_removes_its_directory_is_no_fault(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as directory:
        directory.rmdir()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_up_and_what_is_used_is_not(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        directory = Path(holder.stdout.readline().strip())
        sweep(tmp_path)
        assert (directory / "file").exists()
        holder.kill()
        holder.wait()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_whose_lock_is_gone_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "file").write_text("x")
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_closed_directories_go_as_well(tmp_path: Path) -> None:
    """As root every directory is open, so this is tried as somebody else."""
    place = tmp_path / "tree"
    (place / "closed" / "below").mkdir(parents=True)
    (place / "closed" / "below" / "file").write_text("x")
    if os.geteuid() == 0:
        for path in (tmp_path, place, place / "closed", place / "closed" / "below"):
            os.chown(path, 65534, 65534)
        code = (
            "import os, sys; from pathlib import Path\n"
            "from dissmodel_platform.environments.scratch import remove_tree\n"
            "os.setuid(65534); remove_tree(Path(sys.argv[1]))"
        )
        (place / "closed").chmod(0o000)
        ours = [p for p in tmp_path.parents if p.is_relative_to(tempfile.gettempdir())]
        for parent in ours:
            parent.chmod(parent.stat().st_mode | 0o011)
        subprocess.run([sys.executable, "-c", code, str(place)], check=True)
    else:
        (place / "closed").chmod(0o000)
        remove_tree(place)
    assert not place.exists()


def test_directories_nested_deeper_than_a_path_is_long_go_as_well(tmp_path: Path) -> None:
    place = tmp_path / "scratch" / "left"
    place.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    here = os.open(place, os.O_PATH)
    for _ in range(1200):
        os.mkdir("below", dir_fd=here)
        below = os.open("below", os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    os.symlink(outside, "link", dir_fd=here)
    os.close(here)
    sweep(tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (outside / "file").exists()


def test_what_a_build_leaves_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    made, secret = tmp_path / "made", tmp_path / "secret"
    secret.write_text("key")
    made.symlink_to(secret)
    with pytest.raises(OSError, match="made"):
        read_made(made, 100)
    made.unlink()
    os.mkfifo(made)
    with pytest.raises(OSError, match="no plain file"):
        read_made(made, 100)
    made.unlink()
    made.write_bytes(bytes(101))
    with pytest.raises(ValueError, match="larger than 100"):
        read_made(made, 100)
    assert read_made(made, 101) == bytes(101)
