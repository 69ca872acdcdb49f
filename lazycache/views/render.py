"""How numbers and tables look on a terminal: the owner of rich."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lazycache.cache.activation_cache import ActivationCache

KILO = 1000
SHOWN = 4
"""Elements of a vector that a table cell shows."""

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def bytes_text(count: float) -> str:
    """Bytes as a person reads them, in decimal units.

    Example:
        >>> bytes_text(1_536_000), bytes_text(12)
        ('1.54 MB', '12 B')
    """
    unit, *larger = ("B", "kB", "MB", "GB", "TB")
    while count >= KILO and larger:
        count /= KILO
        unit, *larger = larger
    return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"


def cell(value: Any) -> str:
    """One value of a table; whitespace that matters stays visible."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return escape(value.replace("\n", "⏎").replace("\t", "⇥"))
    if isinstance(value, list):
        shown = ", ".join(cell(v) for v in value[:SHOWN])
        return f"({shown}, … {len(value)})" if len(value) > SHOWN else f"({shown})"
    return escape(str(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> Table:
    """A plain table: numbers to the right, text to the left."""
    rows = list(rows)
    out = Table(
        title=title or None, box=None, header_style="bold", title_justify="left", pad_edge=False
    )
    for i, name in enumerate(columns):
        numbers = all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        out.add_column(escape(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        out.add_row(*(cell(value) for value in row))
    return out


def sites_table(cache: ActivationCache) -> Table:
    """The sites of a dataset, a line each."""
    covered = cache.snapshot.covered
    rows = [
        (
            name,
            site.table,
            site.dtype,
            str(list(site.shape)),
            covered(name),
            bytes_text(covered(name) * site.row_bytes),
        )
        for name, site in cache.sites.items()
    ]
    return table(["site", "table", "dtype", "row", "rows", "bytes"], rows)


def stored_bytes(cache: ActivationCache) -> int:
    """Bytes of all activations of a dataset."""
    covered = cache.snapshot.covered
    return sum(covered(name) * site.row_bytes for name, site in cache.sites.items())


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, form: str) -> None:
    """Print the rows of an answer as `table`, `csv` or `json` (one object a line)."""
    if form == "table":
        console.print(table(columns, rows))
    elif form == "csv":
        import csv

        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows(rows)
    else:
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), default=str, ensure_ascii=False))  # noqa: T201
