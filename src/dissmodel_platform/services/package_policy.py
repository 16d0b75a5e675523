"""The operator's list of package sources, and what a registry's files are by it."""

from __future__ import annotations

import os
from dataclasses import replace

from dissmodel_platform.environments.policy import PackagePolicy
from dissmodel_platform.environments.uv import index_hosts
from dissmodel_platform.registry.bounded_toml import TomlDocument, read_toml
from dissmodel_platform.registry.problems import SpecProblem
from dissmodel_platform.registry.snapshot import ModelReading
from dissmodel_platform.registry.spec import ParsedSpec
from dissmodel_platform.settings import Settings

NOT_ALLOWED = "package-not-allowed"
"""Code of the problem of a spec whose package is not from a source of the list."""


def package_policy(settings: Settings) -> PackagePolicy:
    """Return which sources packages may come from.

    Raises
    ------
    SettingsError
        The operator's list cannot be read.
    """
    return PackagePolicy.read(
        settings.package_sources,
        allow_local=settings.allow_local_packages,
        index_hosts=(*index_hosts(os.environ), *settings.package_hosts),
    )


def judge(reading: ModelReading, policy: PackagePolicy) -> ModelReading:
    """Return a file's reading; one whose package is not allowed has a problem instead of a spec."""
    spec = reading.parsed.spec
    fault = policy.fault_of(spec.package) if spec is not None else None
    if spec is None or fault is None:
        return reading
    document = read_toml(spec.source_text)
    assert isinstance(document, TomlDocument), "it was read before"
    line, column = document.place_of(("model", "package"))
    problem = SpecProblem(reading.file.path, NOT_ALLOWED, fault, line, column)
    return replace(reading, parsed=ParsedSpec(None, (problem, *reading.parsed.problems)))
