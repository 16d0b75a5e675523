"""Read what the harness of a run wrote down: the library's record, or why there is none."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dissmodel_platform.errors import ExecutionError, ExecutorModuleMissing, ModelFailed, RunLost
from dissmodel_platform.execution.forkserver import Exit
from dissmodel_platform.untrusted import read_untrusted_json

LARGEST_RESULT_BYTES = 8 * 1024**2
"""Of the record's fields that a run fills in; the log's lines are the largest of them."""

_HARNESS_BROKE = 70  # EX_SOFTWARE, as in harness/server.py


class RunRecord(BaseModel):
    """The fields of dissmodel's ``ExperimentRecord`` that a run fills in, after ``save``."""

    model_config = ConfigDict(frozen=True)

    status: str
    code_version: str
    output_path: str | None
    period: list[Any] | None = None
    artifacts: dict[str, Any]
    metrics: dict[str, Any]
    logs: list[Any]


def read_result(directory: Path, exit_: Exit, *, was_stopped: bool) -> RunRecord:
    """Return the record that ``save`` returned.

    Parameters
    ----------
    directory : Path
        The run's own directory, with ``result/result.json``.
    exit_ : Exit
        How its process ended.
    was_stopped : bool
        Whether a signal of ours ended it.

    Raises
    ------
    ModelFailed
        The model raised, ended its process, or returned what is no record.
    RunLost
        Something else ended the process.
    """
    place = directory / "result"
    if place.is_symlink():  # where no wall stands, a model may have put one there
        raise _ended_without_result(exit_, was_stopped=was_stopped)
    try:
        content = read_untrusted_json(place / "result.json", max_bytes=LARGEST_RESULT_BYTES)
    except FileNotFoundError:
        raise _ended_without_result(exit_, was_stopped=was_stopped) from None
    except ValueError as error:
        raise ModelFailed(
            f"The record that save() returned cannot be read ({error}); keep data in files."
        ) from error
    try:
        if "error" in content:
            # the traceback of a model that raised is in its own standard error already
            reason = str(content["error"]["message"])
            if content["error"]["kind"] == "import":
                raise ExecutorModuleMissing(
                    f"Importing the executors fails: {reason}. Mend the package, or name the "
                    f"module in `executor_module`."
                )
            raise ModelFailed(reason)
        record = RunRecord.model_validate(content["record"])
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'record'}: {fault['msg']}"
            for fault in error.errors(include_input=False)
        )
        raise ModelFailed(f"The record that save() returned does not fit: {faults}.") from error
    except (KeyError, TypeError) as error:
        raise ModelFailed("The record that save() returned cannot be read.") from error
    if record.status in ("failed", "cancelled"):
        raise ModelFailed(f"save() returned the record with status {record.status!r}.")
    return record


def _ended_without_result(exit_: Exit, *, was_stopped: bool) -> ExecutionError:
    code = exit_.code
    if code is None:
        return RunLost("the model's preloaded process ended")
    if code == -signal.SIGKILL and not was_stopped:
        return RunLost("its process was killed from outside, as the system does when memory is out")
    if code < 0:
        return ModelFailed(
            f"The model's process was ended by {_signal_name(-code)}; run it on your own machine."
        )
    if code == _HARNESS_BROKE:
        return ModelFailed("The run broke off outside the model; the lines above say why.")
    return ModelFailed(
        f"The model ended its own process with exit code {code}; a model must raise instead."
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
