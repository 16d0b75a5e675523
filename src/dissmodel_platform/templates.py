"""Where the registry template and the example model lie: in the wheel, or in a checkout."""

from __future__ import annotations

from pathlib import Path

from dissmodel_platform.errors import PlatformError

_PACKAGED = Path(__file__).parent / "_templates"
_CHECKOUT = Path(__file__).parent.parent.parent
_IN_CHECKOUT = {"dissmodel-configs": "dissmodel-configs", "coastal-flood": "examples/coastal-flood"}


def template_directory(name: str) -> Path:
    """Return the directory of a template: ``dissmodel-configs`` or ``coastal-flood``.

    Raises
    ------
    PlatformError
        This installation lacks it.
    """
    for directory in (_PACKAGED / name, _CHECKOUT / _IN_CHECKOUT[name]):
        if directory.is_dir():
            return directory
    raise PlatformError(f"This installation lacks the template {name}; install the platform again.")
