"""Runs from the command line: submit, follow, list, cancel, reproduce."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from dissmodel_platform.cli.connection import DEFAULT_URL, AsJson, Key, Url, connect
from dissmodel_platform.cli.echo import echo
from dissmodel_platform.cli.progress import RunProgress
from dissmodel_platform.cli.tables import print_table
from dissmodel_platform.client.platform import Platform
from dissmodel_platform.errors import ClientError
from dissmodel_platform.execution.shapefiles import (
    check_complete,
    side_addresses,
    side_addresses_among,
)

app = typer.Typer()

ExperimentArgument = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Experiment id.")]


@app.command()
def submit(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT] [NAME=VALUE]...", help="Input file or uri; parameters."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run, then download.")] = False,
    output: Annotated[Path, typer.Option(help="Where --wait puts the result's files.")] = Path(),
    priority: Annotated[str, typer.Option(help="low, normal or high.")] = "normal",
    input_sha256: Annotated[
        str | None, typer.Option(help="SHA-256 that the input must have.")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="Your own name for this submission: sent again, it is not run again."),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Run a model; a local input file is uploaded first, a .shp with its side files.

    Example: dissmodel-platform submit flood_vector grid.zip end_time=20 --wait
    """
    dataset, parameters = read_arguments(arguments or [])
    with connect(url, key) as platform:
        job = platform.submit(
            model,
            _input_address(platform, dataset),
            parameters=parameters,
            priority=priority,
            idempotency_key=idempotency_key,
            input_sha256=input_sha256,
        )
        files: list[Path] = []
        if wait:
            job = follow(platform, job["experiment_id"], title=model)
            files = [
                platform.download(artifact["uri"], output / artifact["name"])
                for artifact in platform.artifacts(job["experiment_id"])
            ]
    if as_json:
        echo(json.dumps(job, indent=2))
        return
    _print_job(job)
    for file in files:
        echo(f"{'file:':<15} {file}")


@app.command()
def status(
    experiment: ExperimentArgument, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False
) -> None:
    """Show where a run stands.

    Example: dissmodel-platform status 3f2c…
    """
    with connect(url, key) as platform:
        job = platform.job(experiment)
    if as_json:
        echo(json.dumps(job, indent=2))
    else:
        _print_job(job)


@app.command()
def logs(
    experiment: ExperimentArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, until the run has ended.")
    ] = False,
    times: Annotated[
        bool, typer.Option("--times", "-t", help="Show when and where each line was printed.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Print the log of a run.

    Example: dissmodel-platform logs 3f2c… --follow
    """
    with connect(url, key) as platform:
        for line in platform.logs(experiment, follow=follow):
            prefix = f"{line['at']} {line['stream']:<8} " if times and line["at"] else ""
            echo(prefix + line["text"])


@app.command()
def jobs(
    limit: Annotated[int, typer.Option(help="How many.")] = 20,
    status: Annotated[str | None, typer.Option(help="Only those of one state.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first.

    Example: dissmodel-platform jobs --status running
    """
    with connect(url, key) as platform:
        page = platform.jobs(limit=limit, status=status)
    if as_json:
        echo(json.dumps(page, indent=2))
        return
    print_table(("experiment", "model", "status", "created"), map(_row, page["experiments"]))


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    return job["experiment_id"], job["model_name"], job["status"], job["created_at"][:19]


@app.command()
def cancel(experiment: ExperimentArgument, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Cancel a pending or running run.

    Example: dissmodel-platform cancel 3f2c…
    """
    with connect(url, key) as platform:
        echo(platform.cancel(experiment)["message"])


@app.command()
def reproduce(experiment: ExperimentArgument, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Run an experiment again, exactly, and say whether the result is the same.

    The verdict is `identical` (the same bytes), `equal content` (the same cells and georeference,
    or the same features) or `different`, with what differs in each file.

    Example: dissmodel-platform reproduce 3f2c…
    """
    with connect(url, key) as platform:
        job = follow(platform, platform.reproduce(experiment)["experiment_id"], title="reproduce")
        found = platform.record(job["experiment_id"])["reproduction"]
    echo(f"verdict: {found['verdict']}", err=True)
    for artifact in found["artifacts"]:
        if artifact.get("difference"):
            echo(f"{artifact['name']}: {artifact['difference']}", err=True)
    echo(json.dumps(found, indent=2))


def follow(platform: Platform, experiment_id: str, *, title: str) -> dict[str, Any]:
    """Wait for a run while showing its progress on standard error, which keeps the output clean.

    Ctrl-C leaves the run going and says so.
    """
    try:
        with RunProgress(title, sys.stderr) as progress:
            return platform.wait(experiment_id, on_change=progress.show)
    except KeyboardInterrupt:
        echo(
            f"\nThe run goes on. Follow it with `dissmodel-platform status {experiment_id}`, end "
            f"it with `dissmodel-platform cancel {experiment_id}`.",
            err=True,
        )
        raise


def read_arguments(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Split the words after the model's name into the input and the parameters.

    ``NAME=VALUE`` is a parameter unless a file goes by that very name. A value is read as JSON
    where it is JSON (numbers, ``true``, lists) and as text elsewhere.

    Raises
    ------
    ClientError
        More than one input is named, or a parameter twice.
    """
    dataset = ""
    parameters: dict[str, Any] = {}
    for word in arguments:
        name, equals, value = word.partition("=")
        if not (equals and name) or "/" in name or _is_file(word):
            if dataset:
                raise ClientError(f"Two inputs are named, {dataset} and {word}; a run has one.")
            dataset = word
        elif name in parameters:
            raise ClientError(f"The parameter {name} is given twice; give it once.")
        else:
            parameters[name] = _value(value)
    return dataset, parameters


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return text


def _no_json(constant: str) -> Any:
    """Refuse NaN and the infinities, which Python alone takes for JSON."""
    raise ValueError(constant)


def _is_file(word: str) -> bool:
    """Say whether a word names a file; one that is too long for a name does not."""
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


def _input_address(platform: Platform, dataset: str) -> str:
    """Return the address of the input, uploading it if it is a local file."""
    if not dataset or "://" in dataset:
        return dataset
    if not _is_file(dataset):
        raise ClientError(f"There is no file {dataset}; check the path of the input.")
    path = Path(dataset)
    sides = _side_files(path)
    if not sides:
        return str(platform.upload(path)["uri"])
    # A label of its own: side files of another upload of that name would be taken for this one's.
    label = f"{path.stem[:80].strip()}-{uuid4().hex[:12]}"
    for side in sides:
        platform.upload(side, label=label)
    return str(platform.upload(path, label=label)["uri"])


def _side_files(path: Path) -> list[Path]:
    """Return the files that belong to a shapefile, or none."""
    address = str(path.absolute())
    if not side_addresses(address):
        return []
    names = [beside.name for beside in path.absolute().parent.iterdir()]
    found = side_addresses_among(address, names)
    check_complete(str(path), found)
    return [Path(side) for side in found.values()]


def _print_job(job: dict[str, Any]) -> None:
    shown = {
        "experiment": job["experiment_id"],
        "model": job["model_name"],
        "status": job["status"],
        "output": job["output_path"],
        "output sha256": job["output_sha256"],
        "last log line": job["logs"][-1] if job["logs"] else None,
    }
    for name, value in shown.items():
        if value:
            echo(f"{name + ':':<15} {value}")
    for warning in job.get("warnings", []):
        echo(f"warning: {warning}", err=True)
