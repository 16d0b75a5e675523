"""Tests of the built-in executors, for an environment in which those are installed."""

from __future__ import annotations

import importlib.util
import os
import tempfile

# The platform's own environment has neither dissmodel nor these executors: nothing to test there.
if importlib.util.find_spec("dissmodel_builtin") is None:
    collect_ignore_glob = ["test_*.py"]

# libpysal and matplotlib make directories in the user's home when they are imported.
_USER_DIRECTORIES = tempfile.TemporaryDirectory(prefix="builtin-executors-tests-")
_BEFORE = {v: os.environ.get(v) for v in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}


def pytest_configure() -> None:
    os.environ.update(dict.fromkeys(_BEFORE, _USER_DIRECTORIES.name))


def pytest_unconfigure() -> None:
    for variable, value in _BEFORE.items():
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value
    _USER_DIRECTORIES.cleanup()
