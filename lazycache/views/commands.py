"""A command of the command line: what runs, where the help lists it, and examples of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import typer
from typer.core import TyperCommand

Group = Literal["Capture", "Read", "Ask", "Share", "Care"]
"""Panels of the help, in the order of the data."""


@dataclass(frozen=True, slots=True)
class Example:
    """A line that can be typed."""

    what: str
    """What it does, in a few words."""
    line: str
    """The line."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what its help teaches."""

    function: Callable[..., None]
    """What runs; its arguments are those of the command."""
    group: Group
    """Where the help lists it."""
    examples: tuple[Example, ...]
    """What the end of its help shows."""


def add(app: typer.Typer, command: Command) -> None:
    """Add a command to an application."""
    kind = type("Taught", (_Taught,), {"examples": command.examples})
    app.command(cls=kind, rich_help_panel=command.group)(command.function)


class _Taught(TyperCommand):
    """A command whose help ends with examples."""

    examples: tuple[Example, ...] = ()
    """What is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from lazycache.views.help_text import print_examples

        print_examples(self.examples)
