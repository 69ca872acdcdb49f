"""A quick chart of an answer, as SVG: its looks are classes of style.css, its geometry attributes.

What the columns are decides: a text and a number are bars, two numbers a line where the first only
grows, else dots. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Literal

from lazycache.faces.html import Html, number
from lazycache.faces.tokens import label
from lazycache.serve.axes import Axis

Form = Literal["bars", "line", "dots"]
FORMS: tuple[Form, ...] = ("bars", "line", "dots")
"""What a chart can be."""

BARS = 40
"""Bars that are drawn, at most."""

WIDTH, HEIGHT = 720, 300
"""Pixels of a line or of dots."""

LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 40
"""Pixels around them."""

BAR, NAME, VALUE = 18, 190, 76
"""Pixels of a bar with its gap, of the name at its left and of the number at its right."""

NUMBERS_OF_ROWS = frozenset({"row", "example", "position", "token_id", "run", "layer", "step"})
"""Columns that say which row it is: across a chart rather than up."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn."""

    form: Form
    """How."""
    across: int | None
    """The column across, or the names of bars; None: the number of the row in the answer."""
    up: int
    """The column of the values."""


def chosen(
    names: Sequence[str], kinds: Sequence[str], columns: Sequence[Sequence[Any]]
) -> Chart | None:
    """Return the chart that fits the columns of an answer; None: none does.

    Args:
        names: Of the columns.
        kinds: `number`, `text` or anything else (vectors), for each column.
        columns: The values of each.

    Example:
        >>> chosen(["token", "n"], ["text", "number"], [["a", "b"], [1, 2]])
        Chart(form='bars', across=0, up=1)
        >>> chosen(["n"], ["number"], [[1]]) is None
        True
    """
    numbers = [at for at, kind in enumerate(kinds) if kind == "number"]
    measured = [at for at in numbers if names[at] not in NUMBERS_OF_ROWS]
    if not measured or len(columns[measured[0]]) < 2:  # noqa: PLR2004  # one value is no chart
        return None
    texts = [at for at, kind in enumerate(kinds) if kind == "text"]
    if texts:
        return Chart("bars", texts[0], measured[0])
    if len(numbers) == 1:
        return Chart("bars", None, measured[0])
    across = next(at for at in numbers if at != measured[0] or len(measured) > 1)
    up = next(at for at in measured if at != across)
    return Chart("line" if _grows(columns[across]) else "dots", across, up)


def drawn(chart: Chart, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> Html:
    """Return a chart as SVG; rows whose number is missing or not finite are not in it.

    Args:
        chart: What to draw, of these columns.
        names: Of the columns.
        columns: The values of each.

    Example:
        >>> svg = drawn(Chart("bars", 0, 1), ["token", "n"], [["<b>", "c"], [1, 2]])
        >>> svg[:4], "<b>" in svg, "&lt;b&gt;" in svg
        ('<svg', False, True)
    """
    ups = columns[chart.up]
    acrosses: Sequence[Any] = range(len(ups)) if chart.across is None else columns[chart.across]
    name = "row of the answer" if chart.across is None else names[chart.across]
    if chart.form == "bars":
        kept = [(a, float(u)) for a, u in zip(acrosses, ups, strict=True) if _is_finite(u)]
        return _bars(kept[:BARS], title=f"{names[chart.up]} by {name}")
    points = [
        (float(a), float(u))
        for a, u in zip(acrosses, ups, strict=True)
        if _is_finite(a) and _is_finite(u)
    ]
    return _points(points, line=chart.form == "line", names=(name, names[chart.up]))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e300  # noqa: PLR2004  # room for sums


def _grows(values: Sequence[Any]) -> bool:
    return all(map(_is_finite, values)) and all(a < b for a, b in pairwise(values))


def _bars(pairs: Sequence[tuple[Any, float]], *, title: str) -> Html:
    if not pairs:
        return Html("")
    axis = Axis.over([value for _, value in pairs], NAME, WIDTH - VALUE, zero=True)
    zero = axis.at(0.0)
    # orange above zero and blue below it, as values are everywhere; without a sign, blue
    above = "bar second" if axis.least < 0 else "bar"
    parts = [
        _bar(at, name, value, axis, kind="bar" if value < 0 else above)
        for at, (name, value) in enumerate(pairs)
    ]
    height = len(pairs) * BAR
    parts.append(f'<path class="axis" d="M{zero} 0V{height}"/>')
    return _svg(WIDTH, height, title, parts)


def _bar(at: int, name: Any, value: float, axis: Axis, *, kind: str) -> str:
    top, end, zero = at * BAR, axis.at(value), axis.at(0.0)
    said = escape(label("NULL" if name is None else str(name)))
    return (
        f'<text class="end" x="{NAME - 8}" y="{top + 13}">{said}</text>'
        f'<rect class="{kind}" x="{min(zero, end)}" y="{top + 2}" '
        f'width="{max(abs(end - zero), 0.5):.1f}" height="{BAR - 4}"/>'
        f'<text x="{max(zero, end) + 5}" y="{top + 13}">{number(value)}</text>'
    )


def line(
    points: Sequence[tuple[float, float]], *, names: tuple[str, str], width: int, height: int
) -> Html:
    """Return points that follow each other as a line in SVG, over zero.

    Args:
        points: Across and up, finite.
        names: What is across, and what is up.
        width: Pixels of it.
        height: Pixels of it.

    Example:
        >>> line([(0.0, 1.0), (1.0, 3.0)], names=("layer", "norm"), width=300, height=150)[:4]
        '<svg'
    """
    return _points(points, line=True, names=names, width=width, height=height, zero=True)


def _points(
    points: Sequence[tuple[float, float]],
    *,
    line: bool,
    names: tuple[str, str],
    width: int = WIDTH,
    height: int = HEIGHT,
    zero: bool = False,
) -> Html:
    if not points:
        return Html("")
    across = Axis.over([x for x, _ in points], LEFT, width - RIGHT)
    up = Axis.over([y for _, y in points], height - BOTTOM, TOP, zero=zero)
    at = [(across.at(x), up.at(y)) for x, y in points]
    parts = [*_frame(across, up, names)]
    if line:
        parts.append(f'<path class="line" d="M{" L".join(f"{x} {y}" for x, y in at)}"/>')
    parts += (
        f'<circle class="dot" cx="{cx}" cy="{cy}" r="{2 if line else 3}">'
        f"<title>{number(x)}, {number(y)}</title></circle>"
        for (cx, cy), (x, y) in zip(at, points, strict=True)
    )
    return _svg(width, height, f"{names[1]} by {names[0]}", parts)


def _frame(across: Axis, up: Axis, names: tuple[str, str]) -> list[str]:
    floor, right = up.start, across.stop
    parts = [
        f'<path class="guide" d="M{LEFT} {up.at(mark)}H{right}"/>'
        f'<text class="end" x="{LEFT - 6}" y="{up.at(mark) + 4:.1f}">{number(mark)}</text>'
        for mark in up.marks()
    ]
    parts += (
        f'<text class="middle" x="{across.at(mark)}" y="{floor + 16}">{number(mark)}</text>'
        for mark in across.marks()
    )
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{right}"/>')
    parts.append(
        f'<text class="end" x="{right}" y="{floor + BOTTOM - 6}">{escape(label(names[0]))}</text>'
        f'<text x="2" y="10">{escape(label(names[1]))}</text>'
    )
    return parts


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> Html:
    said = escape(label(title, letters=80))
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{said}">{"".join(parts)}</svg>'
    )
