"""Where environments lie: one file system that has hard links, or a warning that names the cost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from dissmodel_platform.environments.layout import Layout

MEMORY = Path("/dev/shm")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "packages")
    made.make()
    return made


def test_one_file_system_with_links_has_no_faults_and_keeps_no_trace(layout: Layout) -> None:
    assert layout.faults() == []
    assert not [path for path in layout.directory.rglob("*") if not path.is_dir()]


def test_a_file_system_without_links_is_told_with_its_cost(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    faults = layout.faults()
    assert len(faults) == 5
    assert "(Operation not permitted): each environment takes its whole size" in faults[0]
    assert not [path for path in layout.directory.rglob("*") if not path.is_dir()]


@pytest.mark.skipif(not MEMORY.is_dir(), reason="no second file system here")
@pytest.mark.parametrize(("moved", "breaks_builds"), [("cache", False), ("environments", True)])
def test_two_file_systems_are_told(layout: Layout, moved: str, breaks_builds: bool) -> None:
    if MEMORY.stat().st_dev == layout.directory.stat().st_dev:
        pytest.skip("no second file system here")
    place = layout.directory / moved
    with tempfile.TemporaryDirectory(dir=MEMORY) as other:
        shutil.rmtree(place)
        place.symlink_to(other)
        faults = layout.faults()
        assert not list(Path(other).iterdir())
    assert "Invalid cross-device link" in faults[0]
    assert any("every build will fail" in fault for fault in faults) is breaks_builds
