"""``python -m dissmodel_platform``: the command line."""

from dissmodel_platform.cli.main import main

main()
