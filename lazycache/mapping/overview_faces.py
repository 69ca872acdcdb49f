"""An overview of a cache as text for terminals and as HTML for notebooks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lazycache.faces.html import Html, card, facts, size, table, text
from lazycache.faces.sparklines import sparkline, sparkline_svg
from lazycache.mapping.overview import Group, Overview, Place, span
from lazycache.plain_text import in_one_line

LINES = 40
"""Groups of keys that are shown."""

COLUMNS = ("key", "of", "dtype", "row", "rows", "bytes")

WIDEST = 60
"""Letters of a cell of text that are shown."""


def as_text(found: Overview) -> str:
    """Return it as lines: the datasets, a table of keys, and a sparkline for each group of layers.

    Example:
        >>> from lazycache.samples import small_cache
        >>> from lazycache.mapping.overview import overview
        >>> print(as_text(overview(small_cache())))  # doctest: +ELLIPSIS
        ActivationCache of ..., version 1
          run main, 3 examples, 6 tokens, ...
          key          of      dtype    row  rows  bytes
          resid_out_0  tokens  float32  [2]     6   48 B
    """
    lines = [line for place in found.places for line in _of_place(place)]
    if not found.places:
        lines = [f"ActivationCache {_in_memory(found)}"]
    if found.groups:
        cells = [list(COLUMNS), *map(_cells, found.groups[:LINES])]
        lines += _aligned(_said(cells))
    if len(found.groups) > LINES:
        lines.append(f"  ... and {len(found.groups) - LINES:,} more")
    return "\n".join([*lines, *_sparklines(found.groups[:LINES])])


def as_html(found: Overview) -> Html:
    """Return it as a block of HTML: the datasets, a table of keys with a sparkline for each group.

    Example:
        >>> from lazycache.samples import small_cache
        >>> from lazycache.mapping.overview import overview
        >>> "resid_out_0" in as_html(overview(small_cache()))
        True
    """
    parts = [_facts(place) for place in found.places[1:]]
    title = _in_memory(found)
    if found.places:
        title = found.places[0].url
        parts.insert(0, _facts(found.places[0], url=False))
    if found.groups:
        parts.append(_table(found.groups))
    return card(title, *parts, kind="ActivationCache")


def _in_memory(found: Overview) -> str:
    return f"in memory, {found.keys:,} key{'s' * (found.keys != 1)}"


def _table(groups: Sequence[Group]) -> Html:
    names, *rows = _said([list(COLUMNS), *map(_cells, groups[:LINES])])
    if any(group.norms for group in groups[:LINES]):
        names.append("norm (RMS) by layer")
        for row, group in zip(rows, groups, strict=False):
            row.append(_picture(group))
    left = {*names} - {"row", "rows", "bytes"}
    return table(names, rows, left=left, more=len(groups) - LINES)


def _picture(group: Group) -> Html | None:
    if not group.norms:
        return None
    title = f"RMS norm of {group.pattern}"
    drawn = sparkline_svg(group.norms, names=group.keys, least=0, height=16, title=title)
    return Html(f"{drawn} {text(span(group.norms))}")


def _facts(place: Place, *, url: bool = True) -> Html:
    many = len(place.runs)
    return facts(
        [
            ("and", place.url if url else None),
            ("version", place.version),
            ("run" if many == 1 else "runs", place.runs[0] if many == 1 else many),
            *place.rows,
            ("files", None if place.nbytes is None else size(place.nbytes)),
            *(("where", condition) for condition in place.conditions),
        ]
    )


def _of_place(place: Place) -> Iterator[str]:
    yield f"ActivationCache of {in_one_line(place.url)}, version {place.version}"
    many = len(place.runs)
    said = [f"run {in_one_line(place.runs[0])}" if many == 1 else f"{many} runs"]
    said += [f"{rows:,} {name}" for name, rows in place.rows]
    if place.nbytes is not None:
        said.append(size(place.nbytes))
    yield f"  {', '.join(said)}"
    yield from (f"  where {in_one_line(condition)}" for condition in place.conditions)


def _cells(group: Group) -> list[str]:
    bound = "≤ " * group.bounded
    return [
        in_one_line(group.name),
        group.table,
        in_one_line(group.what),
        group.row,
        "" if group.rows is None else f"{bound}{group.rows:,}",
        "" if not group.nbytes else f"{bound}{size(group.nbytes)}",
    ]


def _said(cells: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Return the columns that say something of any key."""
    columns = zip(*cells, strict=True)
    return [list(row) for row in zip(*(c for c in columns if any(c[1:])), strict=True)]


def _aligned(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines with columns below each other: numbers from the right."""
    short = [[_cut(cell) for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*short, strict=True)]
    for row in short:
        line = (
            cell.rjust(width) if name in {"row", "rows", "bytes"} else cell.ljust(width)
            for name, cell, width in zip(short[0], row, widths, strict=True)
        )
        yield f"  {'  '.join(line)}".rstrip()


def _cut(cell: str) -> str:
    return cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 1]}…"


def _sparklines(groups: Sequence[Group]) -> list[str]:
    known = [group for group in groups if group.norms]
    if not known:
        return []
    names = [_cut(in_one_line(group.pattern)) for group in known]
    lines = [
        [name, f"{sparkline(group.norms, least=0)} {span(group.norms)}"]
        for name, group in zip(names, known, strict=True)
    ]
    return list(_aligned([["norm (RMS) by layer", ""], *lines]))
