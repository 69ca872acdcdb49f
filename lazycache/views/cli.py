"""The `lazycache` command: the library's verbs, one command each.

This module and those of the commands load nothing of the library before a command runs: help and
completion answer at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

import lazycache
from lazycache.views.capture_commands import COMMANDS as CAPTURE
from lazycache.views.care_commands import COMMANDS as CARE
from lazycache.views.commands import add
from lazycache.views.failures import told
from lazycache.views.question_commands import COMMANDS as ASK
from lazycache.views.reading_commands import COMMANDS as READ
from lazycache.views.serve_command import COMMANDS as SERVE
from lazycache.views.sharing_commands import COMMANDS as SHARE
from lazycache.views.verify_commands import COMMANDS as VERIFY

app = typer.Typer(
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The activation database: capture a model, read it lazily, ask it in SQL.",
    epilog=(
        "[bold]lazycache COMMAND --help[/] shows examples. Begin with [bold]lazycache demo[/].\n\n"
        "Exit codes: 0 done, 1 refused or not in order, 2 not understood, 130 interrupted."
    ),
)

COMMANDS = (*CAPTURE, *READ, *SERVE, *ASK, *SHARE, *VERIFY, *CARE)
"""All commands, in the order of the help."""


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print it.")] = False,
) -> None:
    if version:
        typer.echo(f"lazycache {lazycache.__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        ctx.get_help()  # prints it


for command in COMMANDS:
    add(app, command)


def main() -> None:
    """Run the command; what goes wrong is one clear line on standard error, not a traceback."""
    with told():
        app()
