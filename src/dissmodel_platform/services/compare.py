"""Say whether a reproduction gave the same result, and what differs where it did not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dissmodel_platform.environments.scratch import scratch_directory
from dissmodel_platform.environments.store import Environment, EnvironmentStore
from dissmodel_platform.errors import ObjectNotFound, StorageError
from dissmodel_platform.execution.harness.comparison import RASTERS, VECTORS
from dissmodel_platform.execution.outputs import Artifact
from dissmodel_platform.experiments.record import Experiment
from dissmodel_platform.storage.objects import ObjectStore
from dissmodel_platform.types import Sha256

Verdict = Literal["identical", "equal content", "different"]

IDENTICAL: Verdict = "identical"
EQUAL_CONTENT: Verdict = "equal content"
DIFFERENT: Verdict = "different"

_MOST_LOOKED_AT = 100
_SECONDS = 900.0
_PIECE_BYTES = 1024**2


class ContentReport(BaseModel):
    """What the model's environment says of two maps; its code is foreign, so it may say anything.

    Attributes
    ----------
    tool : str
        Name and version of the library that opened them; empty: none did, for ``reason``.
    equal : bool
        Whether they hold the same.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    tool: str = Field(max_length=200)
    reason: str = Field(default="", max_length=1_000)
    equal: bool
    differences: list[str] = Field(default=[], max_length=100)
    cells: int | None = None
    differing_cells: int | None = None
    largest_difference: float | None = None
    features: int | None = None
    differing_features: int | None = None

    def sentence(self) -> str:
        """Say how the two differ."""
        parts = []
        if self.differing_cells:
            parts.append(
                f"{self.differing_cells:,} of {self.cells or 0:,} cells differ, by at most "
                f"{self.largest_difference:g}"
            )
        if self.differing_features:
            parts.append(f"{self.differing_features:,} of {self.features or 0:,} features differ")
        return "; ".join([*parts, *self.differences])


class Comparer:
    """Compares the artifacts of a reproduction with those of its original.

    Parameters
    ----------
    objects : ObjectStore
        Where the bytes of both are.
    environments : EnvironmentStore
        This machine's environments.
    """

    def __init__(self, objects: ObjectStore, environments: EnvironmentStore) -> None:
        self._objects = objects
        self._environments = environments

    async def compare(
        self, original: Experiment, artifacts: Sequence[Artifact], environment: Environment
    ) -> dict[str, Any]:
        """Compare file by file: the bytes, then what maps hold.

        Parameters
        ----------
        original : Experiment
            What was reproduced.
        artifacts : sequence of Artifact
            The reproduction's.
        environment : Environment
            The model's own, whose libraries open its maps.

        Returns
        -------
        dict
            ``of`` (the original's id), ``verdict`` and ``artifacts``: ``name``, both checksums
            (``None`` where one side lacks the file), ``identical``, ``verdict``, and where the
            bytes differ ``difference``, a sentence. ``identical`` means the same bytes;
            ``equal content`` the same cells and georeference, or the same features; all else is
            ``different``.

        Raises
        ------
        BuildInterrupted
            The worker is being stopped.
        """
        before = {entry["name"]: entry for entry in original.outcome.get("outputs", [])}
        after = {artifact.name: artifact for artifact in artifacts}
        deadline, looked_at = time.monotonic() + _SECONDS, 0
        compared = []
        for name in sorted(before.keys() | after.keys()):
            entry = {
                "name": name,
                "original_sha256": before[name]["sha256"] if name in before else None,
                "reproduced_sha256": after[name].sha256 if name in after else None,
            }
            is_same = entry["original_sha256"] == entry["reproduced_sha256"]
            entry |= {"identical": is_same, "verdict": IDENTICAL if is_same else DIFFERENT}
            if name not in after:
                entry["difference"] = "only the original has it"
            elif name not in before:
                entry["difference"] = "only the reproduction has it"
            elif not is_same and (looked_at >= _MOST_LOOKED_AT or time.monotonic() > deadline):
                entry["difference"] = "the bytes differ; too many do for a closer look at all"
            elif not is_same:
                looked_at += 1
                entry |= await self._look_closer(entry, environment)
            compared.append(entry)
        return {"of": original.id, "verdict": _overall(compared), "artifacts": compared}

    async def _look_closer(
        self, entry: Mapping[str, Any], environment: Environment
    ) -> dict[str, Any]:
        """Return the ``difference`` of two files, and what else is to be said."""
        suffix = PurePosixPath(entry["name"]).suffix.lower()
        with scratch_directory(self._environments.layout.scratch) as scratch:
            before, after = scratch / f"before{suffix}", scratch / f"after{suffix}"
            try:
                old = await self._objects.fetch(Sha256(entry["original_sha256"]), before)
                new = await self._objects.fetch(Sha256(entry["reproduced_sha256"]), after)
            except ObjectNotFound:
                return {"difference": "the original's bytes are not in the store any more"}
            except StorageError as error:
                return {"difference": f"the bytes differ; they cannot be fetched: {error}"}
            first = await asyncio.to_thread(first_difference, before, after)
            found: dict[str, Any] = {
                "difference": f"the bytes differ from byte {first:,} on",
                "first_differing_byte": first,
                "original_size_bytes": old.size_bytes,
                "reproduced_size_bytes": new.size_bytes,
            }
            if old.size_bytes != new.size_bytes:
                found["difference"] += (
                    f"; there are {new.size_bytes:,}, there were {old.size_bytes:,}"
                )
            if suffix in RASTERS + VECTORS:
                found |= await self._compare_content(environment, before, after)
        return found

    async def _compare_content(
        self, environment: Environment, before: Path, after: Path
    ) -> dict[str, Any]:
        try:
            said = await asyncio.to_thread(self._environments.compare, environment, before, after)
            report = ContentReport.model_validate(said)
        except ValidationError:
            return _unopened("what it says of them cannot be read")
        except (ValueError, OSError) as error:
            return _unopened(str(error))
        if not report.tool:
            return _unopened(report.reason or "nothing opened them")
        numbers = report.model_dump(
            exclude_none=True, exclude={"equal", "tool", "reason", "differences"}
        )
        if report.equal and not report.sentence():
            told = "the bytes differ, the content does not"
            return {"verdict": EQUAL_CONTENT, "difference": told, "tool": report.tool, **numbers}
        told = report.sentence() or "the content differs"
        return {"difference": told, "tool": report.tool, **numbers}


def _unopened(reason: str) -> dict[str, str]:
    return {"difference": f"differs; the model's environment cannot compare the content: {reason}"}


def _overall(compared: Sequence[Mapping[str, Any]]) -> Verdict:
    verdicts = {entry["verdict"] for entry in compared}
    if DIFFERENT in verdicts:
        return DIFFERENT
    return EQUAL_CONTENT if EQUAL_CONTENT in verdicts else IDENTICAL


def first_difference(before: Path, after: Path) -> int:
    """Return where two files begin to differ: the number of bytes that are the same before it."""
    place = 0
    for old, new in _pieces(before, after):
        if old != new:
            length = min(len(old), len(new))
            # halves that are the same are skipped, which is faster than byte by byte
            low, high = 0, length
            while low < high:
                middle = (low + high) // 2
                if old[low : middle + 1] == new[low : middle + 1]:
                    low = middle + 1
                else:
                    high = middle
            return place + low
        place += len(old)
    return place


def _pieces(before: Path, after: Path) -> Iterator[tuple[bytes, bytes]]:
    with before.open("rb") as old_file, after.open("rb") as new_file:
        while True:
            old, new = old_file.read(_PIECE_BYTES), new_file.read(_PIECE_BYTES)
            if not old and not new:
                return
            yield old, new
