"""The address that the API listens on."""

from __future__ import annotations

import errno
import socket

from dissmodel_platform.errors import SettingsError


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; after this, the address is ours until it is closed.

    Raises
    ------
    SettingsError
        The port is taken, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"Port {port} of {host} is in use by another program; choose another with --port."
            ) from error
        raise SettingsError(
            f"The api cannot listen on {host}, port {port}: {error.strerror}. Choose others with "
            f"--host and --port."
        ) from error
