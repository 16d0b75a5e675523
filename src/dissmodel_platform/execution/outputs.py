"""Collect what a run left in its output directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dissmodel_platform.errors import ModelFailed
from dissmodel_platform.storage.media import media_type
from dissmodel_platform.storage.objects import ObjectStore
from dissmodel_platform.storage.uris import OUTPUTS_BUCKET, output_uri
from dissmodel_platform.types import ExperimentId, Sha256


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
    """

    name: str
    uri: str
    sha256: Sha256
    size_bytes: int
    media_type: str


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
    refused : tuple of str
        Names of links and special files, which are not collected.
    """

    artifacts: tuple[Artifact, ...]
    main: Artifact | None
    refused: tuple[str, ...]


async def collect_outputs(
    directory: Path, experiment_id: ExperimentId, run_experiment_id: str, output_path: str | None,
    store: ObjectStore,
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

    Raises
    ------
    ModelFailed
        ``output_path`` names a file that the run did not write.
    """
    files, refused = list_files(directory)
    artifacts = []
    for name in files:
        stored = await store.put_file(directory / name)
        uri = str(output_uri(experiment_id, name))
        artifacts.append(Artifact(name, uri, stored.sha256, stored.size_bytes, media_type(name)))
    main = _main(directory, run_experiment_id, output_path, artifacts)
    return Outputs(tuple(artifacts), main, tuple(refused))


def list_files(directory: Path) -> tuple[list[str], list[str]]:
    """List regular files, and apart links and special files; links are not followed."""
    regular: list[str] = []
    refused: list[str] = []
    for parent, directories, names in os.walk(directory, followlinks=False):
        for name in [*names, *(d for d in directories if (Path(parent) / d).is_symlink())]:
            path = Path(parent) / name
            kept = regular if stat.S_ISREG(path.lstat().st_mode) else refused
            kept.append(path.relative_to(directory).as_posix())
    return sorted(regular), sorted(refused)


def _main(
    directory: Path, experiment_id: str, output_path: str | None, artifacts: list[Artifact]
) -> Artifact | None:
    if not output_path:
        return artifacts[0] if len(artifacts) == 1 else None
    name = _relative_name(directory, experiment_id, output_path)
    found = next((artifact for artifact in artifacts if artifact.name == name), None)
    is_directory = any(artifact.name.startswith(f"{name}/") for artifact in artifacts)
    if found is None and not is_directory:
        written = ", ".join(artifact.name for artifact in artifacts) or "nothing"
        raise ModelFailed(
            f"save() set output_path to {output_path!r}, but the run wrote no such file (it wrote "
            f"{written}); write to a path relative to the working directory, or use dissmodel.io."
        )
    return found


def _relative_name(directory: Path, experiment_id: str, output_path: str) -> str:
    prefix = f"s3://{OUTPUTS_BUCKET}/"
    if output_path.startswith(prefix):
        return output_path.removeprefix(prefix).removeprefix(f"experiments/{experiment_id}/")
    path = PurePosixPath(os.path.normpath(directory / output_path))
    return path.relative_to(directory).as_posix() if path.is_relative_to(directory) else str(path)


def verified_artifacts(claimed: Mapping[str, Any], outputs: Outputs) -> dict[str, str]:
    """Keep the checksums that the executor registered and that some collected file has.

    Returns
    -------
    dict of str to str
        The library's ``artifacts`` (name → sha256), with ``output`` for the main file.
    """
    collected = {artifact.sha256 for artifact in outputs.artifacts}
    kept = {name: str(value) for name, value in claimed.items() if str(value) in collected}
    if outputs.main is not None:
        kept["output"] = outputs.main.sha256
    return kept
