"""Check a registry as it would be published: its files, their packages, and one run of each model.

The files go through the code of the sync, the models through that of a run, in a platform of the
check's own; what is found here is what a server would say after the merge.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.registry.example import Example
from dissmodel_platform.registry.snapshot import RegistryFile
from dissmodel_platform.services.check_files import RegistryContents, read_registry
from dissmodel_platform.services.check_model import ModelCheck, Tell
from dissmodel_platform.services.check_report import CheckReport, Step
from dissmodel_platform.services.package_policy import package_policy
from dissmodel_platform.services.trial import open_trial
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.tasks import see_through

LONGEST_EXAMPLE_SECONDS = 600.0
"""Wall-clock limit of an example's run; an operator's lower one counts."""


@dataclass(frozen=True)
class CheckRequest:
    """What to check.

    Attributes
    ----------
    directory : Path
        Work tree of the registry.
    base : str or None
        A branch, tag or commit: only what was changed since then is checked; ``None``: everything.
    builds : bool
        Whether packages are installed, imported and run, or the files only read.
    allow_local : bool
        Whether packages may be local.
    packages_directory : Path
        Where environments and the package cache are kept from check to check.
    """

    directory: Path
    base: str | None
    builds: bool
    allow_local: bool
    packages_directory: Path


async def check_registry(
    request: CheckRequest, settings: Settings, scratch: Path, tell: Tell
) -> CheckReport:
    """Check a registry's work tree as it stands, committed or not.

    After this, also when it is cancelled, no process that it started is left.

    Parameters
    ----------
    settings : Settings
        Limits of builds and runs.
    scratch : Path
        An empty directory that the caller removes.
    tell : callable
        Gets a line when something begins that takes a while.

    Raises
    ------
    InvalidInput
        There is no registry at ``request.directory``, or no such base.
    """
    begin = time.perf_counter()
    policy = package_policy(settings)
    work = asyncio.to_thread(read_registry, request.directory, request.base, scratch, policy)
    contents = await see_through(work)
    report = CheckReport(contents.head, contents.base, contents.removed())
    examples = await see_through(asyncio.to_thread(_report_on_files, contents, report, tell))
    if request.builds and examples:
        tell("starting a database of the check's own")
        trial_settings = _trial_settings(settings, scratch / "platform", contents.tree.directory)
        async with open_trial(
            trial_settings, request.packages_directory, allow_local=request.allow_local
        ) as trial:
            await trial.publish(contents.change, contents.readings(), contents.catalog)
            for file, example in examples.items():
                reading = await see_through(asyncio.to_thread(contents.reading, file))
                assert reading.parsed.spec is not None, "it was read before"
                model = ModelCheck(reading.parsed.spec, contents, report.file(file.path), tell)
                await model.try_out(trial, example, allow_local=request.allow_local)
    report.seconds = time.perf_counter() - begin
    return report


def _report_on_files(
    contents: RegistryContents, report: CheckReport, tell: Tell
) -> dict[RegistryFile, Example | None]:
    """Note what is wrong with the files; returns the good ones, and the examples to run."""
    examples: dict[RegistryFile, Example | None] = {}
    for reading in contents.readings():
        file = report.file(reading.file.path)
        file.add(Step.SPEC, reading.parsed.problems)
        if reading.parsed.spec is not None:
            model = ModelCheck(reading.parsed.spec, contents, file, tell)
            examples[reading.file] = model.check_example()
    contents.report_on(report)
    return examples


def _trial_settings(settings: Settings, home: Path, inputs: Path) -> Settings:
    """Return the operator's limits with a home of the check's own."""
    home.mkdir(mode=0o700)
    run_timeout_seconds = min(settings.run_timeout_seconds, LONGEST_EXAMPLE_SECONDS)
    changed = {
        "home": home,
        "input_directories": (inputs,),
        "run_timeout_seconds": run_timeout_seconds,
    }
    return settings.model_copy(update=changed)
