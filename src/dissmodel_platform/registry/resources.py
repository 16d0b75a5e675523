"""What ``[model.resources]`` can say: how much of a machine a run of the model may take.

Sizes are whole bytes or text with a unit (``"4 GiB"``, ``"500 MB"``), durations are seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_UNITS = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([A-Za-z]{1,3})", re.ASCII)
_LARGEST = 2**60

SIZES = frozenset({"memory", "disk"})
COUNTS = frozenset({"cores", "processes"})
DURATIONS = frozenset({"seconds", "cpu_seconds"})
KEYS = SIZES | COUNTS | DURATIONS


@dataclass(frozen=True, slots=True)
class Resources:
    """What one run may take; ``None``: the spec does not say.

    Attributes
    ----------
    memory, disk : int or None
        Bytes: of all its processes together, and of what it writes.
    cores, processes : int or None
        Threads that numerical libraries use, and processes at a time.
    seconds, cpu_seconds : float or None
        Wall-clock time, and processor time of all its processes.
    """

    memory: int | None = None
    disk: int | None = None
    cores: int | None = None
    processes: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None


def read_resources(table: Mapping[str, object]) -> Resources:
    """Read a table whose faults were told already: what cannot be read is left out."""
    return Resources(
        memory=_size(table.get("memory")),
        disk=_size(table.get("disk")),
        cores=_count(table.get("cores")),
        processes=_count(table.get("processes")),
        seconds=_duration(table.get("seconds")),
        cpu_seconds=_duration(table.get("cpu_seconds")),
    )


def resource_faults(table: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each key whose value cannot be read, and what it must be."""
    for key in table.keys() & SIZES:
        if _size(table[key]) is None:
            yield key, 'must be bytes or a size such as "4 GiB"'
    for key in table.keys() & COUNTS:
        if _count(table[key]) is None:
            yield key, "must be a whole number from 1"
    for key in table.keys() & DURATIONS:
        if _duration(table[key]) is None:
            yield key, "must be seconds, more than 0"


def _size(value: object) -> int | None:
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if found is None or found[2] not in _UNITS:
            return None
        value = int(float(found[1]) * _UNITS[found[2]])
    return _count(value)


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST:
        return None
    return value


def _duration(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
        return None
    return float(value)
