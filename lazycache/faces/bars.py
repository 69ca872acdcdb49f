"""Counts between edges as a histogram in SVG, with marks at some values. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lazycache.faces.colours import NEGATIVE, POSITIVE
from lazycache.faces.html import Html, number, table, text

MOST_BARS = 120
"""Bars that are drawn, at most; of more bins some are drawn as one."""

WIDTH, HEIGHT = 420, 96
"""Pixels of the bars."""

LETTER = 6.2
"""Pixels of a letter of a label."""

_SIDE, _BELOW, _LINE = 8, 18, 13


def bars(
    counts: Sequence[int] | np.ndarray,
    edges: Sequence[float] | np.ndarray,
    *,
    title: str = "",
    marks: Sequence[tuple[str, float]] = (),
    log: bool = False,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Html:
    """Return counts as bars, with their edges below and marks as dashed lines with names above.

    It has attributes only, no styles and no scripts: pages with a strict policy can hold it. Each
    bar says its edges and its count on hover.

    Args:
        counts: [bins], how many values there are in each.
        edges: [bins + 1], ascending and finite.
        title: What is counted, for those who cannot see it.
        marks: Name and value of each, `("50 %", 0.2)`: drawn where they lie between the edges.
        log: The height of a bar goes with the logarithm of its count.
        width: Pixels from the first edge to the last.
        height: Pixels of the highest bar.

    Raises:
        ValueError: edges are not one more than counts.

    Example:
        >>> bars([1, 3], [0.0, 0.5, 1.0], marks=[("mean", 0.6)]).count("<rect")
        2
    """
    found, places = _fewer(np.asarray(counts), np.asarray(edges, dtype=np.float64))
    top = _LINE * (_rows_of(marks) + 1) + 4
    whole = width + 2 * _SIDE
    drawn = _drawn(found, places, top, width, height, log=log)
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{top + height + _BELOW}" '
        f'viewBox="0 0 {whole} {top + height + _BELOW}" role="img" aria-label="{text(title)}" '
        'font-family="monospace" font-size="10" fill="currentColor">'
        f"{_most(found, log=log)}{drawn}{_axis(places, top + height, width)}"
        f"{_marks(marks, places, top, width, height)}</svg>"
    )


def _fewer(counts: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most so many bins as can be seen: neighbours are counted together."""
    if len(edges) != len(counts) + 1:
        message = f"{len(counts)} counts need {len(counts) + 1} edges, and there are {len(edges)}."
        raise ValueError(message)
    few = math.ceil(len(counts) / MOST_BARS)
    if few <= 1:
        return counts, edges
    starts = np.arange(0, len(counts), few)
    return np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])


def _drawn(
    counts: np.ndarray, edges: np.ndarray, top: int, width: int, height: int, *, log: bool
) -> str:
    tall = np.log1p(counts.astype(np.float64)) if log else counts.astype(np.float64)
    tall = tall / max(tall.max(initial=0.0), 1e-300) * height
    parts = []
    for (low, high), count, size in zip(
        pairwise(edges.tolist()), counts.tolist(), tall, strict=True
    ):
        left, right = _at(low, edges, width), _at(high, edges, width)
        if count:
            size = max(1.0, float(size))  # noqa: PLW2901  # one of many is seen too
            parts.append(
                f'<rect x="{left:.2f}" y="{top + height - size:.2f}" fill-opacity="0.6" '
                f'width="{max(0.5, right - left - 0.5):.2f}" height="{size:.2f}">'
                f"<title>{number(low)} to {number(high)}: {count:,}</title></rect>"
            )
    return "".join(parts)


def _at(value: float, edges: np.ndarray, width: int) -> float:
    low, high = float(edges[0]) / 2, float(edges[-1]) / 2
    return _SIDE + ((value / 2 - low) / (high - low) * width if high > low else width / 2)


def _most(counts: np.ndarray, *, log: bool) -> str:
    scale = ", log scale" if log else ""
    most = int(counts.max(initial=0))
    return f'<text x="{_SIDE}" y="10" fill-opacity="0.7">highest bar: {most:,}{scale}</text>'


def _axis(edges: np.ndarray, floor: int, width: int) -> str:
    low, high = float(edges[0]), float(edges[-1])
    middle = low / 2 + high / 2
    line = (
        f'<line x1="{_SIDE}" x2="{_SIDE + width}" y1="{floor}" y2="{floor}" '
        'stroke="currentColor" stroke-opacity="0.5"/>'
    )
    texts = (
        f'<text x="{x}" y="{floor + _LINE}" text-anchor="{anchor}">{number(value)}</text>'
        for x, anchor, value in (
            (_SIDE, "start", low),
            (_SIDE + width / 2, "middle", middle),
            (_SIDE + width, "end", high),
        )
    )
    return line + "".join(texts)


def _rows_of(marks: Sequence[tuple[str, float]]) -> int:
    """Return how many lines of names there are above: each mark has its own, so none overlap."""
    return len(marks)


def _marks(
    marks: Sequence[tuple[str, float]], edges: np.ndarray, top: int, width: int, height: int
) -> str:
    inside = [mark for mark in marks if edges[0] <= mark[1] <= edges[-1]]
    parts = []
    for i, (name, value) in enumerate(inside):
        x, y = _at(value, edges, width), _LINE * (i + 2) - 3
        said = f"{name} {number(value)}"
        fits = x + 3 + LETTER * len(said) <= width + 2 * _SIDE
        parts.append(
            f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{y - 8}" y2="{top + height}" '
            'stroke="#e67e14" stroke-width="1.5" stroke-dasharray="3 2"/>'
            f'<text x="{x + 3 if fits else x - 3:.2f}" y="{y}" '
            f'text-anchor="{"start" if fits else "end"}">{text(said)}</text>'
        )
    return "".join(parts)


def signed_bar(value: float, most: float, *, width: int = 160, height: int = 10) -> Html:
    """Return one number as a bar from the middle: to the right in orange, to the left in blue.

    Args:
        value: The number; what is not finite has no bar.
        most: The largest absolute value of those that are shown together.
        width: Pixels from the lowest possible bar to the highest.
        height: Pixels of its thickness.

    Example:
        >>> 'fill="rgb(40,110,200)"' in signed_bar(-1.0, 2.0)
        True
    """
    share = min(1.0, abs(value / most)) if most > 0 and math.isfinite(value) else 0.0
    middle = width / 2
    left = middle if value > 0 else middle * (1 - share)
    colour = ",".join(map(str, POSITIVE if value > 0 else NEGATIVE))
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<rect x="{left:.2f}" y="1" width="{share * middle:.2f}" height="{height - 2}" '
        f'fill="rgb({colour})"/><line x1="{middle}" x2="{middle}" y1="0" y2="{height}" '
        'stroke="currentColor" stroke-opacity="0.4"/></svg>'
    )


def signed_table(
    columns: tuple[str, str], pairs: Sequence[tuple[str, float]], *, more: int = 0
) -> Html:
    """Return names, numbers and their bars as a table for notebooks; see `table` about styles.

    Example:
        >>> signed_table(("part", "value"), [("a", 1.0), ("b", -2.0)]).count("<svg")
        2
    """
    most = max((abs(value) for _, value in pairs if math.isfinite(value)), default=0.0)
    rows = [(name, value, signed_bar(value, most)) for name, value in pairs]
    return table((*columns, ""), rows, left=(columns[0], ""), more=more)
