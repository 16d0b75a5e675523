"""``demo``: the whole researcher's workflow, once, on real data, in a temporary place."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dissmodel_platform.cli import up  # noqa: F401 - started below: here, as what it lacks is told
from dissmodel_platform.cli.echo import echo
from dissmodel_platform.cli.progress import RunProgress
from dissmodel_platform.client.platform import Platform
from dissmodel_platform.errors import ClientError, PlatformError, ServerUnreachable
from dissmodel_platform.processes import SUPERVISOR_VARIABLE
from dissmodel_platform.services.local_registry import LocalRegistry, make_local_registry
from dissmodel_platform.templates import template_directory

app = typer.Typer()

MODEL = "flood_vector"
_START_SECONDS = 60.0
_BUILD_SECONDS = 900.0
_RUN_SECONDS = 300.0
_DRAW = Path(__file__).with_name("draw_map.py")


@app.command("demo")
def demo(
    output: Annotated[Path, typer.Option(help="Where the results are put.")] = Path("demo-output"),
) -> None:
    """Publish a model, sync, build, run cold and warm, reproduce, draw; then clean up.

    Example: dissmodel-platform demo --output demo-output
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="dissmodel-demo-") as temporary:
        place = Path(temporary).resolve()
        _step("A registry and a package, each in a git repository")
        registry = make_local_registry(place / "repositories")
        _tell("registry", registry.registry_url)
        _tell("package", registry.package_requirement)
        with _platform(place, registry) as platform:
            _run_workflow(platform, place, output)
    _step(f"Done in {time.perf_counter() - begin:.0f} s; everything that was started has ended")


def _run_workflow(platform: Platform, place: Path, output: Path) -> None:
    _step("Sync the registry")
    _wait_for_models(platform)
    models = platform.models()
    commit = platform.model(MODEL)["commit"]
    _tell("commit", commit)
    for model in models:
        _tell(model["name"], model["description"])

    _step(f"Build the environment of {MODEL}")
    environment = _wait_for_environment(platform, MODEL)
    _tell("ready after", f"{environment['seconds']:.1f} s")

    _step("Run it")
    grid = platform.upload(template_directory("coastal-flood") / "data" / "grid.zip", label="demo")
    _tell("input", f"{grid['uri']} ({grid['size_mb']} MB)")
    cold = _run(platform, grid["uri"], "first run")
    record = platform.record(cold["experiment_id"])
    _describe(record)

    _step("Run it again, warm")
    warm = _run(platform, grid["uri"], "second run")
    warm_record = platform.record(warm["experiment_id"])
    _tell("first run", f"{_seconds(record):.3f} s from submission to result")
    _tell("second run", f"{_seconds(warm_record):.3f} s, of which the model took "
          f"{warm_record['metrics']['time_total_sec']:.3f} s")  # fmt: skip

    _step("Reproduce the first run")
    job = platform.reproduce(cold["experiment_id"])
    _follow(platform, job, "reproduction")
    reproduction = platform.record(job["experiment_id"])["reproduction"]
    _tell("verdict", reproduction["verdict"])

    output.mkdir(parents=True, exist_ok=True)
    result = output / "flood.gpkg"
    platform.download(record["output_path"], result)
    (output / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    (output / "reproduction.json").write_text(json.dumps(reproduction, indent=2) + "\n")
    _draw(place, record["environment_key"], result, output / "flood.png")
    _step(f"Results in {output}")
    for file in sorted(output.iterdir()):
        _tell(file.name, f"{file.stat().st_size:,} bytes")
    if reproduction["verdict"] != "identical":
        raise PlatformError(f"The reproduction differs; see {output / 'reproduction.json'}.")


@contextmanager
def _platform(place: Path, registry: LocalRegistry) -> Iterator[Platform]:
    """Start the platform as ``up`` does, in the temporary place, and end it with the block."""
    port = _free_port()
    ours = ("PLATFORM_", "CONFIGS_", "DATABASE_URL", "STORAGE_URL", "API_KEYS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {
        "PLATFORM_HOME": str(place / "home"),
        "CONFIGS_REPO": registry.registry_url,
        "PLATFORM_ALLOW_LOCAL_REGISTRY": "true",
        "PLATFORM_ALLOW_LOCAL_PACKAGES": "true",
        SUPERVISOR_VARIABLE: str(os.getpid()),
    }
    command = [sys.executable, "-m", "dissmodel_platform", "up", "--port", str(port)]
    _step("Start the platform: PostgreSQL, api, worker, registry sync")
    log_path = place / "up.log"
    process: subprocess.Popen[bytes] | None = None
    try:
        with log_path.open("wb") as log, _signals_put_off():
            process = subprocess.Popen(
                [*command, "--workers", "1"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        key = _wait_for_start(process, url, place / "home" / "api-key", log_path)
        _tell("address", url)
        with Platform(url, key) as platform:
            yield platform
    except PlatformError:
        echo(log_path.read_text(errors="replace")[-4000:], err=True)
        raise
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):  # a second one would leave things behind
            signal.signal(signum, signal.SIG_IGN)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait()


@contextmanager
def _signals_put_off() -> Iterator[None]:
    """Start a process in the block: an interrupt in its middle would lose sight of it.

    Raises
    ------
    KeyboardInterrupt
        At the end, if there was one meanwhile.
    """
    noted: list[int] = []
    former = {
        signum: signal.signal(signum, lambda number, _: noted.append(number))
        for signum in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
    if noted:
        raise KeyboardInterrupt


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_start(process: subprocess.Popen[bytes], url: str, key_file: Path, log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    with Platform(url) as platform:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ClientError(f"The platform did not start (exit code {process.returncode}).")
            try:
                platform.health()
            except ServerUnreachable:
                time.sleep(0.1)
                continue
            return key_file.read_text().strip()
    raise ClientError(f"The platform did not start within {_START_SECONDS:.0f} s; see {log}.")


def _wait_for_models(platform: Platform) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not platform.health()["ready"]:
        if time.monotonic() > deadline:
            raise ClientError("The registry was not synced: " + str(platform.health()["reasons"]))
        time.sleep(0.1)


def _wait_for_environment(platform: Platform, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + _BUILD_SECONDS
    while time.monotonic() < deadline:
        environment: dict[str, Any] = platform.model(name)["environment"]
        if environment["state"] == "failed":
            raise ClientError(str(environment["error"]))
        if environment["state"] == "ready":
            return environment
        time.sleep(0.2)
    raise ClientError(f"The environment of {name} was not ready within {_BUILD_SECONDS:.0f} s.")


def _run(platform: Platform, uri: str, title: str) -> dict[str, Any]:
    return _follow(platform, platform.submit(MODEL, uri), title)


def _follow(platform: Platform, job: dict[str, Any], title: str) -> dict[str, Any]:
    try:
        with RunProgress(title, sys.stdout) as progress:
            return platform.wait(
                job["experiment_id"], timeout_seconds=_RUN_SECONDS, on_change=progress.show
            )
    except TimeoutError as error:
        raise ClientError(str(error)) from error


def _describe(record: dict[str, Any]) -> None:
    metrics = record["metrics"]
    phases = ", ".join(
        f"{phase} {metrics[f'time_{phase}_sec']:.3f} s"
        for phase in ("validate", "load", "run", "save")
    )
    _tell("status", record["status"])
    _tell("phases", phases)
    _tell("output", record["output_path"])
    _tell("output sha256", record["output_sha256"])
    _tell("input sha256", record["input_sha256"])
    _tell("model commit", record["model_commit"])
    _tell("package commit", record["package_commit"])
    _tell("environment", record["environment_key"])
    _tell("dissmodel", record["code_version"])


def _seconds(record: dict[str, Any]) -> float:
    """Return the time from submission to result, in seconds, by the database's clock."""
    created, finished = (
        datetime.fromisoformat(record[name]) for name in ("created_at", "finished_at")
    )
    return (finished - created).total_seconds()


def _draw(place: Path, key: str, result: Path, picture: Path) -> None:
    """Draw the map with the libraries of the model's own environment."""
    python = place / "home" / "packages" / "environments" / key / "bin" / "python"
    drawn = subprocess.run(
        [str(python), str(_DRAW), str(result), str(picture)],
        env={"PATH": os.environ["PATH"], "HOME": str(place), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
        check=False,
    )
    if drawn.returncode != 0:
        raise ClientError(f"The map cannot be drawn: {drawn.stderr.strip()[-500:]}")


def _step(text: str) -> None:
    typer.echo(f"\n▶ {text}")


def _tell(name: str, text: object) -> None:
    echo(f"  {name + ':':<16} {text}")
