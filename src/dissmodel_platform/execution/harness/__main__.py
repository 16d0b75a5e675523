"""Entry by file name: give this directory a package name of its own, then hand over.

The directory is not put on ``sys.path``, so no module of ours can hide one of the model's.
"""

import importlib.util
import sys
from pathlib import Path

NAME = "dissmodel_platform_harness"

directory = Path(__file__).parent
spec = importlib.util.spec_from_file_location(
    NAME, directory / "__init__.py", submodule_search_locations=[str(directory)]
)
assert spec is not None and spec.loader is not None
package = importlib.util.module_from_spec(spec)
sys.modules[NAME] = package
spec.loader.exec_module(package)

importlib.import_module(f"{NAME}.main").main(sys.argv[1:])
