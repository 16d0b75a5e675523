"""Replacing a mirror by a new clone, so that a kill at any point leaves one or the other."""

from __future__ import annotations

import shutil
from pathlib import Path

from dissmodel_platform.registry.git_faults import disk_errors
from dissmodel_platform.registry.mirror_lock import remove_leftovers


class MirrorSwap:
    """The places beside a mirror, and the renames between them.

    ``.building`` may be half a clone; ``.ready`` is a whole one that only has to be swapped in;
    ``.broken`` is what it replaced. All calls are for the holder of the mirror's lock.

    Parameters
    ----------
    directory : Path
        The mirror.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.building = directory.with_name(f"{directory.name}.building")
        self._ready = directory.with_name(f"{directory.name}.ready")
        self.broken = directory.with_name(f"{directory.name}.broken")

    def clear_up(self) -> None:
        """Finish what a killed writer had begun, and remove what it left unfinished.

        Raises
        ------
        GitFailed
            The disk refuses.
        """
        with disk_errors():
            if self._ready.exists():
                if self._directory.exists():
                    if self.broken.exists():
                        shutil.rmtree(self.broken)
                    self._directory.rename(self.broken)
                self._ready.rename(self._directory)
            for rest in (self.building, self.broken):
                if rest.exists():
                    shutil.rmtree(rest)
            remove_leftovers(self._directory)

    def swap_in(self) -> None:
        """Put the finished clone in the mirror's place and remove the old one."""
        with disk_errors():
            self.building.rename(self._ready)
        self.clear_up()
