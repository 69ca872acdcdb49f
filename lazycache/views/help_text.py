"""Examples at the end of a help text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text
from typer.rich_utils import MAX_WIDTH, STYLE_COMMANDS_PANEL_BORDER

from lazycache.views.commands import Example


def print_examples(examples: Sequence[Example]) -> None:
    """Print examples as the panels of typer look, each with what it does above it."""
    lines = [
        Text.assemble((f"# {example.what}\n", "dim"), (example.line, "bold"))
        for example in examples
    ]
    panel = Panel(
        Group(*lines),
        title="Examples",
        title_align="left",
        border_style=STYLE_COMMANDS_PANEL_BORDER,
    )
    Console(width=MAX_WIDTH, highlight=False).print(panel)
