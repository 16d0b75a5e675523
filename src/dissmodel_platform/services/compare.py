"""Say whether a reproduction gave the same result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dissmodel_platform.execution.outputs import Artifact
from dissmodel_platform.experiments.record import Experiment


def compare_outputs(original: Experiment, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """Compare the artifacts of a reproduction with those of the original, byte by byte.

    Returns
    -------
    dict
        ``of`` (the original's id), ``verdict`` (``identical`` or ``different``), and
        ``artifacts``: name, both checksums (``None`` where one side lacks the file) and whether
        they are equal.
    """
    before = {entry["name"]: entry["sha256"] for entry in original.outcome.get("outputs", [])}
    after = {artifact.name: artifact.sha256 for artifact in artifacts}
    compared = [
        {
            "name": name,
            "original_sha256": before.get(name),
            "reproduced_sha256": after.get(name),
            "identical": before.get(name) == after.get(name),
        }
        for name in sorted(before.keys() | after.keys())
    ]
    identical = all(entry["identical"] for entry in compared)
    return {
        "of": original.id,
        "verdict": "identical" if identical else "different",
        "artifacts": compared,
    }
