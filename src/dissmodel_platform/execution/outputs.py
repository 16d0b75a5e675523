"""Collect what a run left in its output directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dissmodel_platform.errors import ModelFailed
from dissmodel_platform.execution.headers.reader import KINDS, HeaderReader
from dissmodel_platform.execution.output_tree import Listing, OutputLimits, OutputTree
from dissmodel_platform.storage.files import OpenFile
from dissmodel_platform.storage.media import media_type
from dissmodel_platform.storage.objects import ObjectStore
from dissmodel_platform.storage.tasks import see_through
from dissmodel_platform.storage.uris import OUTPUTS_BUCKET, output_uri
from dissmodel_platform.types import ExperimentId, Sha256

_AT_ONCE = 4
"""Files that are stored at the same time, each with a thread or two and some megabytes."""

_LARGE_BYTES = 32 * 1024**2
"""Above this, files are stored one by one: they fill the line, and the memory in between."""

_MOST_UNREADABLE = 3
"""Broken GeoTIFF and GeoPackage files of a run after which no more headers are read."""

_MOST_TOLD = 20
_LONGEST_SHOWN = 100


@dataclass(frozen=True)
class Artifact:
    """One file of a result.

    Attributes
    ----------
    name : str
        Path below the experiment's outputs, with ``/``.
    uri : str
        Public address, ``s3://dissmodel-outputs/experiments/<id>/<name>``.
    sha256 : Sha256
        Content.
    size_bytes : int
        Its size.
    media_type : str
        From the file's name.
    spatial : dict or None
        What a GeoTIFF or GeoPackage says of itself: ``crs``, ``extent``, size, bands or layers (see
        `headers.geotiff` and `headers.geopackage`).
    """

    name: str
    uri: str
    sha256: Sha256
    size_bytes: int
    media_type: str
    spatial: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the record's ``outputs``."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Outputs:
    """The files of a result, and which one is the main one.

    Attributes
    ----------
    artifacts : tuple of Artifact
        Ordered by name.
    main : Artifact or None
        The file at the record's ``output_path``; without one, the only file there is. ``None``
        where ``output_path`` is a directory.
    refused : mapping of str to str
        Names of links and special files, which are not collected, each with the rest of a sentence
        that says why.
    undescribed : mapping of str to str
        The same for GeoTIFF and GeoPackage files whose headers cannot be read.
    """

    artifacts: tuple[Artifact, ...]
    main: Artifact | None
    refused: Mapping[str, str]
    undescribed: Mapping[str, str]


async def collect_outputs(
    directory: Path, experiment_id: ExperimentId, run_experiment_id: str, output_path: str | None,
    store: ObjectStore, limits: OutputLimits, headers: HeaderReader,
) -> Outputs:  # fmt: skip
    """Hash and store every regular file below a run's output directory.

    Parameters
    ----------
    directory : Path
        The run's working directory.
    experiment_id : str
        Whose artifacts they become.
    run_experiment_id : str
        The id that the model saw; another one in a reproduction.
    output_path : str or None
        The record's ``output_path`` after ``save``.
    store : ObjectStore
        Where the bytes go.
    limits : OutputLimits
        How much a run may leave.
    headers : HeaderReader
        Reads what GeoTIFF and GeoPackage files say of themselves.

    Raises
    ------
    ModelFailed
        ``output_path`` names a file that the run did not write, or it left too much, or what
        cannot be read.
    InvalidInput
        A file's name is none that an address can have.
    """
    with await asyncio.to_thread(OutputTree, directory) as tree:
        # to its end also when this is cancelled: it uses the descriptor that is closed then
        listing = await see_through(asyncio.to_thread(tree.list, limits))
        addresses = {name: str(output_uri(experiment_id, name)) for name in listing.files}
        _main_name(directory, run_experiment_id, output_path, listing)  # before anything is sent
        waiting = iter(addresses.items())
        artifacts: list[Artifact] = []
        describer = _Describer(headers)
        turn = asyncio.Lock()

        async def store_some() -> None:
            for name, uri in waiting:
                with tree.open(name) as descriptor:
                    spatial = await describer.describe(descriptor, name)
                    is_large = os.fstat(descriptor).st_size > _LARGE_BYTES
                    async with turn if is_large else contextlib.nullcontext():
                        stored = await store.put_file(OpenFile(descriptor, name))
                artifacts.append(
                    Artifact(name, uri, stored.sha256, stored.size_bytes, media_type(name), spatial)
                )

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(addresses))):
                    group.create_task(store_some())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
    artifacts.sort(key=lambda artifact: artifact.name)
    name = _main_name(directory, run_experiment_id, output_path, listing)
    main = next((artifact for artifact in artifacts if artifact.name == name), None)
    return Outputs(tuple(artifacts), main, listing.refused, describer.faults)


class _Describer:
    """Reads the headers of one run's files, until it has met too many that cannot be read."""

    def __init__(self, headers: HeaderReader) -> None:
        self._headers = headers
        self.faults: dict[str, str] = {}

    async def describe(self, descriptor: int, name: str) -> dict[str, Any] | None:
        if PurePosixPath(name).suffix.lower() not in KINDS:
            return None
        if len(self.faults) >= _MOST_UNREADABLE:  # each may take its whole time
            return None
        try:
            return await self._headers.read(descriptor, name)
        except ValueError as error:
            self.faults[name] = f"has no extent and CRS in the record: {error}."
            return None


def _main_name(
    directory: Path, experiment_id: str, output_path: str | None, listing: Listing
) -> str | None:
    """Return the main file's name; ``None`` where ``output_path`` is a directory, or not set."""
    if not output_path:
        return listing.files[0] if len(listing.files) == 1 else None
    name = _relative_name(directory, experiment_id, output_path)
    if name in listing.files:
        return name
    if name in listing.refused:
        raise ModelFailed(
            f"save() set output_path to {output_path!r}, which {listing.refused[name]}"
        )
    if not any(file.startswith(f"{name}/") for file in listing.files):
        written = ", ".join(listing.files[:_MOST_TOLD]) or "nothing"
        more = len(listing.files) - _MOST_TOLD
        written += f" and {more:,} more files" if more > 0 else ""
        raise ModelFailed(
            f"save() set output_path to {output_path!r}, but the run wrote no such file (it wrote "
            f"{written}); write to a path relative to the working directory, or use dissmodel.io."
        )
    return None


def _relative_name(directory: Path, experiment_id: str, output_path: str) -> str:
    prefix = f"s3://{OUTPUTS_BUCKET}/"
    if output_path.startswith(prefix):
        return output_path.removeprefix(prefix).removeprefix(f"experiments/{experiment_id}/")
    path = PurePosixPath(os.path.normpath(directory / output_path))
    return path.relative_to(directory).as_posix() if path.is_relative_to(directory) else str(path)


def verified_artifacts(
    claimed: Mapping[str, Any], outputs: Outputs
) -> tuple[dict[str, str], list[str]]:
    """Compare the checksums that the executor registered with the collected bytes, one by one.

    ``output`` means the main file. Another name that is the name of a file, with or without its
    directories, means that file. The library lets an executor choose any other label (``report``):
    such a one means whichever file has the checksum.

    Parameters
    ----------
    claimed : mapping of str to object
        The library's ``artifacts`` after ``save``.
    outputs : Outputs
        What was collected.

    Returns
    -------
    verified : dict of str to str
        The library's ``artifacts`` (name → sha256) as far as they are true, and always ``output``
        for the main file.
    faults : list of str
        A sentence for each one that is not.
    """
    by_name: dict[str, set[Sha256]] = {}
    for artifact in outputs.artifacts:
        for name in {artifact.name, PurePosixPath(artifact.name).name}:
            by_name.setdefault(name, set()).add(artifact.sha256)
    anywhere = {artifact.sha256 for artifact in outputs.artifacts}
    verified: dict[str, str] = {}
    faults = []
    for name, value in claimed.items():
        if name == "output" and outputs.main is not None:
            meant, told = {outputs.main.sha256}, repr(outputs.main.name)
        elif name in by_name:
            meant, told = by_name[name], "the file of this name"
        else:
            meant, told = anywhere, "any file that the run left"
        if value in meant:
            verified[name] = str(value)
        else:
            faults.append(
                f"save() registered the artifact {_short(name)} with the checksum "
                f"{_short(value)}, which is not that of {told}; it is not recorded."
            )
    if outputs.main is not None:
        verified["output"] = outputs.main.sha256
    return verified, faults


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
