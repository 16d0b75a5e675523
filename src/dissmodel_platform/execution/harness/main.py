"""Commands of the harness: ``check`` an environment, ``serve`` runs, ``compare`` two maps."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from .comparison import compare_maps
from .inspection import ImportReport, contract_faults, import_executors, prepare_caches
from .lifecycle import Package
from .server import Server, die_with
from .walls import RunWalls


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="harness")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check")
    check.add_argument("--report", required=True, help="file for the JSON report")
    compare = commands.add_parser("compare")
    compare.add_argument("--report", required=True, help="file for the JSON report")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    serve = commands.add_parser("serve")
    serve.add_argument("--socket-fd", type=int, required=True)
    serve.add_argument("--parent", type=int, required=True)
    serve.add_argument("--walls", type=json.loads, required=True, help="`RunWalls` as JSON")
    serve.add_argument("--bare", action="store_true", help="let each run import for itself")
    for command in (check, serve):
        command.add_argument("--distribution", default="")
        command.add_argument("--module", default="")
    options = parser.parse_args(arguments)
    if options.command == "check":
        _check(options.distribution, options.module, Path(options.report))
    elif options.command == "compare":
        Path(options.report).write_text(json.dumps(compare_maps(options.before, options.after)))
    else:
        walls = RunWalls(**options.walls)
        walls.enter_nest()
        if not walls.namespaces:  # else bubblewrap ends with the worker, and this with it
            die_with(options.parent)
        package = Package(options.distribution, options.module)
        Server(socket.socket(fileno=options.socket_fd), package, walls, bare=options.bare).serve()


def _check(distribution: str, module: str, report: Path) -> None:
    """Import the executors, run the contract checks, and write what was found."""
    try:
        found = import_executors(distribution, module)
        faults = contract_faults(found.registered)
        prepare_caches()
    except BaseException as error:
        traceback.print_exc()
        found, faults = ImportReport.failed(error), {}
    report.write_text(json.dumps({**found.as_json(), "contract_faults": faults}))
    sys.stdout.flush()
    os._exit(0)
