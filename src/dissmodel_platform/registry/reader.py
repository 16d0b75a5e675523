"""Which code reads the registry's files: when it changes, all of them are read again."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

MODULES = (
    "bounded_toml",
    "bounded_yaml",
    "catalog",
    "listing",
    "parameter_schema",
    "problems",
    "resources",
    "snapshot",
    "spec",
    "spec_checks",
    "toml_bounds",
)
"""Modules of this package that decide what a file means, and whether it can be published."""


@cache
def reader_version() -> str:
    """Return a checksum of the code that reads specs, catalogues and listings.

    A publication notes it. After an upgrade the next sync finds another one and reads every file
    again, so that a mended reader reaches files that have not changed.
    """
    directory = resources.files("dissmodel_platform.registry")
    digest = hashlib.sha256()
    for name in MODULES:
        digest.update((directory / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
