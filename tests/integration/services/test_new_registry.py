"""A new registry is made whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissmodel_platform.errors import GitError
from dissmodel_platform.services.new_registry import make_registry


def test_nothing_is_left_of_a_registry_that_could_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="install git"):
        make_registry(tmp_path / "some" / "new" / "place")
    assert list(tmp_path.iterdir()) == []


def test_directories_that_were_there_stay_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there" / "empty").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    for place in ("there/empty", "there/new/place"):
        with pytest.raises(GitError):
            make_registry(tmp_path / place)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["empty"]
