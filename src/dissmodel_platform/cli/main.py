"""``dissmodel-platform``: finds the module of a command only when the command is named."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from dissmodel_platform import __version__
from dissmodel_platform.cli.echo import echo
from dissmodel_platform.cli.exit_codes import exit_code_of
from dissmodel_platform.errors import ClientError, PlatformError

COMMANDS = {
    "up": "up",
    "demo": "demo",
    "api": "api",
    "worker": "worker",
    "registry": "registry",
    "environments": "environments",
    "models": "models",
    "submit": "runs",
    "status": "runs",
    "logs": "runs",
    "jobs": "runs",
    "cancel": "runs",
    "reproduce": "runs",
    "upload": "data",
    "download": "data",
}
"""Module of each command, below ``dissmodel_platform.cli``."""

SERVER_COMMANDS = frozenset({"up", "demo", "api", "worker", "registry", "environments"})
"""Commands that need the extra ``server``."""


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for.

    The base install has no server libraries; a command that needs them says so when it is called.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the module of a command and return the command."""
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"dissmodel_platform.cli.{COMMANDS[cmd_name]}")
        except ModuleNotFoundError as error:
            if cmd_name not in SERVER_COMMANDS:
                raise
            return _unavailable(cmd_name, error.name or "")
        command: Any = get_command(module.app)
        if hasattr(command, "commands") and cmd_name in command.commands:
            return command.commands[cmd_name]
        command.name = cmd_name
        return command


def _unavailable(name: str, missing: str) -> Any:
    """Make the command that stands for one whose libraries are not installed."""
    app = typer.Typer()

    @app.command(
        name,
        help="(needs the extra `server`)",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def explain() -> None:
        raise ClientError(
            f"`{name}` needs the server's libraries ({missing} is missing); install them with: "
            f"pip install 'dissmodel-platform[server]'"
        )

    return get_command(app)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run, cite and reproduce published spatial simulation models.

    Start here: `dissmodel-platform up` starts everything on this machine;
    `dissmodel-platform demo` runs the whole workflow once.
    """


def main() -> None:
    """Run the command line; an error of ours is one sentence on standard error."""
    try:
        app()
    except PlatformError as error:
        echo(f"dissmodel-platform: {error}", err=True)
        sys.exit(exit_code_of(error))
    except KeyboardInterrupt:
        sys.exit(130)
