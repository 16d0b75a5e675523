"""Where the harness lies, which runs in the models' own environments."""

from __future__ import annotations

from pathlib import Path

HARNESS = Path(__file__).parent / "harness" / "__main__.py"
"""Entry file, started by an environment's own Python."""

SANDBOX = Path(__file__).parents[1] / "sandbox"
"""Modules that a run puts its walls up with, standard library only."""

SERVERS = "servers"
"""Directory of the servers' own directories, beside those of their runs."""
