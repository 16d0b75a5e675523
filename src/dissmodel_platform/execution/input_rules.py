"""Which inputs may be read, and how much: what the operator has set, in one place."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.uris import LOGICAL_BUCKETS, LogicalUri


@dataclass(frozen=True)
class InputRules:
    """What inputs may be read.

    Attributes
    ----------
    max_bytes : int
        Size of all inputs of a run together.
    directories : tuple of Path
        Directories of this machine whose files may be read.
    buckets : frozenset of str
        S3 buckets that may be read, beside the platform's own.
    allow_private : bool
        Whether ``http(s)`` addresses may be on the operator's own network.
    """

    max_bytes: int
    directories: tuple[Path, ...] = ()
    buckets: frozenset[str] = frozenset()
    allow_private: bool = False

    @classmethod
    def of(cls, settings: Settings) -> InputRules:
        """Return the rules that settings give."""
        return cls(
            max_bytes=settings.max_input_bytes,
            directories=settings.input_directories,
            buckets=frozenset(settings.input_buckets),
            allow_private=settings.allow_private_inputs,
        )

    def parse_object(self, uri: str) -> LogicalUri:
        """Read an ``s3://`` address.

        Raises
        ------
        InvalidInput
            It is none, or its bucket may not be read.
        """
        return LogicalUri.parse(uri, LOGICAL_BUCKETS | self.buckets)


class Allowance:
    """Bytes that the inputs of one run may still have; counted by several threads.

    Parameters
    ----------
    max_bytes : int
        What they may have together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._spent_bytes = 0
        self._lock = threading.Lock()

    def spend(self, size_bytes: int) -> None:
        """Count some bytes.

        Raises
        ------
        InvalidInput
            They are more than were left.
        """
        with self._lock:
            self._spent_bytes += size_bytes
        self.see_room(0)

    def see_room(self, size_bytes: int) -> None:
        """See that some bytes are left, without counting them.

        Raises
        ------
        InvalidInput
            They are not.
        """
        if self._spent_bytes + size_bytes > self._max_bytes:
            raise InvalidInput(
                f"The inputs of this run are larger than the {self._max_bytes} bytes that they may "
                f"have together; give smaller files, or ask the operator to raise "
                f"PLATFORM_MAX_INPUT_BYTES."
            )
