"""How numbers and tables look on a terminal: the owner of rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions
from rich.markup import escape
from rich.table import Table

from lazycache.plain_text import in_lines
from lazycache.progress import bytes_text

if TYPE_CHECKING:
    from lazycache.mapping.activation_cache import ActivationCache

SHOWN = 4
"""Elements of a vector that a table cell shows."""

UNLIMITED = 1_000_000
"""Columns of what is no terminal: a file or a pipe folds nothing."""


LEADING = frozenset({"before"})
"""Columns of text that leads up to the next column."""


class _Console(Console):
    """A console that wraps at the edge of a terminal, and nowhere else."""

    @property  # type: ignore[misc]  # rich lets it be set, which nobody does
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        known = super().size
        # the file is asked, not rich: FORCE_COLOR makes rich call a pipe a terminal
        return known if self.file.isatty() else ConsoleDimensions(UNLIMITED, known.height)


console = _Console(highlight=False)
errors = _Console(stderr=True, highlight=False)


def counted(number: int, noun: str) -> str:
    """Say how many of something there are.

    Example:
        >>> counted(1, "commit"), counted(1234, "commit")
        ('1 commit', '1,234 commits')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def cell(value: Any) -> str:
    r"""Show one value of a table; whitespace that matters stays visible, markup means nothing.

    Nor does what a terminal takes for an order: tokens of a model are any bytes.

    Example:
        >>> cell((0.123456, 2.0, 3.0, 4.0, 5.0)), cell("[red]"), cell("a\x1b[2J")
        ('(0.1235, 2, 3, 4, … 5)', '\\[red]', 'a\\x1b[2J')
    """
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return escape(harmless(value))
    if isinstance(value, list | tuple):  # DuckDB gives arrays as tuples
        shown = ", ".join(cell(v) for v in value[:SHOWN])
        return f"({shown}, … {len(value)})" if len(value) > SHOWN else f"({shown})"
    return escape(harmless(str(value)))


def harmless(text: str) -> str:
    r"""Return text in one line that moves no cursor and changes no colour or direction.

    Example:
        >>> harmless("a\tb\n\x1b[31m")
        'a⇥b⏎\\x1b[31m'
    """
    return in_lines(text.replace("\n", "⏎").replace("\t", "⇥"))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table: numbers to the right, text to the left, but for text that leads on."""
    rows = list(rows)
    out = Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(columns):
        numbers = all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        out.add_column(
            escape(harmless(name)),
            justify="right" if numbers or name in LEADING else "left",
            overflow="fold",
        )
    for row in rows:
        out.add_row(*(cell(value) for value in row))
    return out


def sites_table(cache: ActivationCache) -> Table:
    """The sites of a dataset, a line each."""
    rows = [
        (
            name,
            site.table,
            site.dtype,
            str(list(site.shape)),
            cache.rows(name),
            bytes_text(cache.stored_bytes(name)),
        )
        for name, site in cache.sites.items()
    ]
    return table(["site", "table", "dtype", "row", "rows", "bytes"], rows)


def stored_bytes(cache: ActivationCache) -> int:
    """Bytes of all activations of a dataset."""
    return sum(map(cache.stored_bytes, cache))
