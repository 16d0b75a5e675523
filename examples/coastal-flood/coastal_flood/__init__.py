"""Coastal flooding under a rising sea, as a dissmodel model.

Importing this package registers :class:`~coastal_flood.flood_executor.FloodVectorExecutor` under
the name ``flood_vector``.
"""

import sys

# `python -m coastal_flood.flood_executor` imports this package before it runs that module, and
# that module, run, registers the executor itself. To import it here as well would load it twice,
# of which Python warns (RuntimeWarning: found in sys.modules). While Python is still looking for
# the module to run, sys.argv[0] is "-m" (https://docs.python.org/3/library/sys.html#sys.argv).
_ABOUT_TO_RUN_THE_EXECUTOR = sys.argv[:1] == ["-m"] and any(
    argument.endswith(f"{__name__}.flood_executor") for argument in sys.orig_argv
)

if not _ABOUT_TO_RUN_THE_EXECUTOR:
    from coastal_flood.flood_executor import FloodVectorExecutor

__all__ = ["FloodVectorExecutor"]
