"""Distinct types for things that are strings by accident."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

Revision = NewType("Revision", str)
"""A full commit id (40 or 64 hexadecimal digits); never a branch, a tag or a prefix."""

EnvironmentKey = NewType("EnvironmentKey", str)
"""SHA-256 (hexadecimal) that names the whole content of an environment."""

Sha256 = NewType("Sha256", str)
"""SHA-256 of a file's bytes, 64 lower-case hexadecimal digits."""

ExperimentId = NewType("ExperimentId", str)
"""32 lower-case hexadecimal digits, as dissmodel's own records have."""


class ExperimentStatus(StrEnum):
    """Where an experiment stands; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no transition leaves this state."""
        return self not in (ExperimentStatus.PENDING, ExperimentStatus.RUNNING)


class Priority(StrEnum):
    """How soon a pending experiment is taken, relative to the others."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """The queue's number for this priority; higher is taken first."""
        return {Priority.LOW: -10, Priority.NORMAL: 0, Priority.HIGH: 10}[self]
