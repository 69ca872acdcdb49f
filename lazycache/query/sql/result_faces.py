"""The first rows of a result as HTML: vectors are shortened, all text is escaped. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lazycache.faces.html import Html, card, facts, number, table, text
from lazycache.faces.tokens import in_line

LINES = 20
"""Rows that are shown."""

WIDEST = 16
"""Columns that are shown."""

NUMBERS = 3
"""Numbers of a vector that are shown."""

LETTERS = 80
"""Letters of a cell that are shown."""

_LEFT = ("VARCHAR", "BOOLEAN", "STRUCT", "MAP", "JSON", "BLOB", "ENUM")


def as_html(
    columns: Sequence[str],
    types: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    problem: str = "",
) -> Html:
    """Return the beginning of a result as a table; with a problem, that instead of rows.

    Args:
        columns: Names of all columns.
        types: Their SQL types.
        rows: The first rows, of at least the columns that are shown; one more than are shown, if
            there are more.
        problem: Why there are no rows.

    Example:
        >>> "&lt;b&gt;" in as_html(["token"], ["VARCHAR"], [("<b>",)])
        True
    """
    hidden = len(columns) - WIDEST
    pairs = list(zip(columns, types, strict=True))[:WIDEST]
    if problem:
        said = facts([("columns", ", ".join(f"{name} {kind}" for name, kind in pairs))])
        return card("", said, Html(f"<div>{text(problem, letters=1000)}</div>"), kind="Result")
    names = [name for name, _ in pairs]
    left = [name for name, kind in pairs if kind.startswith(_LEFT)]
    shown = table(names, ([cell(one) for one in row[:WIDEST]] for row in rows[:LINES]), left=left)
    count = f"the first {LINES} rows" if len(rows) > LINES else f"{len(rows)} rows"
    more = facts([("... and more columns", hidden)]) if hidden > 0 else ""
    return card(count, shown, more, kind="Result")


def cell(value: Any) -> Html:
    r"""Return one value as HTML in a line: of a vector the first numbers and its length.

    Example:
        >>> cell([0.5, 1.0, 2.0, 3.0]), cell(None), cell("a\n<"), cell(12345)
        ('[0.5, 1, 2, … 4]', 'NULL', 'a⏎&lt;', '12345')
    """
    return text(_plain(value), letters=LETTERS)


def _plain(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return number(value).replace(",", "")
    if isinstance(value, str):
        return in_line(value)
    if isinstance(value, (list, tuple)):
        return _vector(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_plain(one)}' for key, one in value.items())}}}"
    return str(value)


def _vector(value: Sequence[Any]) -> str:
    shown = [_plain(one) for one in value[:NUMBERS]]
    if len(value) > NUMBERS:
        return f"[{', '.join(shown)}, … {len(value)}]"
    return f"[{', '.join(shown)}]"
