"""Tries what no build has any business with, and says what it managed."""

import json
import os
import socket
from pathlib import Path


def read(path):
    return Path(path).read_text(errors="replace")[:40]


def write(path):
    Path(path).write_text("was here")
    return "written"


def connect(family, address):
    with socket.socket(family) as connection:
        connection.settimeout(5)
        connection.connect(address)
        return "connected"


def report():
    aims = json.loads((Path(__file__).parent / "aims.json").read_text())
    attempts = {
        "read a secret": lambda: read(aims["secret"]),
        "read the worker's variables": lambda: read(f"/proc/{aims['worker']}/environ"),
        "signal the worker": lambda: os.kill(aims["worker"], 0),
        "write to the package cache": lambda: write(aims["cache"] + "/poison"),
        "write to another environment": lambda: write(aims["environment"] + "/poison.py"),
        "change a wheel": lambda: write(aims["wheel"]),
        "reach the database's socket": lambda: connect(socket.AF_UNIX, aims["database"]),
        "reach a server of this machine": lambda: connect(
            socket.AF_INET, ("127.0.0.1", aims["port"])
        ),
        "look names up": lambda: socket.getaddrinfo("example.org", 443) and "found",
    }
    managed = {}
    for name, attempt in attempts.items():
        try:
            managed[name] = attempt()
        except OSError as error:
            managed[name] = type(error).__name__
    managed["variables"] = " ".join(f"{name}={value}" for name, value in os.environ.items())
    raise RuntimeError("REPORT " + json.dumps(managed))
