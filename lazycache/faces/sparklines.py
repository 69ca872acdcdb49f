"""A row of numbers as a row of small bars: in a line of text, or as SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from lazycache.faces.html import Html, number, text

BLOCKS = "▁▂▃▄▅▆▇█"
"""The bars of text, the least first."""

LONGEST = 60
"""Bars of a line of text, at most; of more numbers each bar is the greatest of a few."""

BAR, GAP = 5, 1
"""Pixels of a bar of an SVG, and between two."""


def sparkline(values: Iterable[float], *, least: float | None = None) -> str:
    """Return numbers as bars of text, from the least to the greatest; what is not finite is a dot.

    Args:
        values: Numbers in order.
        least: What the lowest bar stands for; None: the least of them.

    Example:
        >>> sparkline([1, 2, 4, float("nan"), 8]), sparkline([3, 3]), sparkline([9, 10], least=0)
        ('▁▂▄·█', '▁▁', '▇█')
    """
    shown = _fewer(list(map(float, values)))
    heights = _heights(shown, least)
    return "".join(
        "·" if height is None else BLOCKS[round(height * (len(BLOCKS) - 1))] for height in heights
    )


def sparkline_svg(
    values: Sequence[float],
    *,
    names: Sequence[str] = (),
    least: float | None = None,
    height: int = 22,
    title: str = "",
) -> Html:
    """Return numbers as bars of an SVG in the colour of the text; each says its number on hover.

    It has attributes only, no styles and no scripts: pages with a strict policy can hold it.

    Args:
        values: Numbers in order; what is not finite leaves a gap.
        names: What each is the number of, for the hover.
        least: What a bar of no height stands for; None: the least of them.
        height: Pixels of the highest bar.
        title: What the numbers are, for those who cannot see them.

    Example:
        >>> sparkline_svg([1.0, 2.0], names=["layer 0", "layer 1"], title="norms").count("<rect")
        2
    """
    numbers = list(map(float, values))
    parts = []
    for i, (value, share) in enumerate(zip(numbers, _heights(numbers, least), strict=True)):
        if share is not None:
            name = f"{names[i]}: " if names else ""
            tall = max(1.0, share * height)
            parts.append(
                f'<rect x="{i * (BAR + GAP)}" y="{height - tall:.4g}" width="{BAR}" '
                f'height="{tall:.4g}"><title>{text(f"{name}{number(value)}")}</title></rect>'
            )
    width = max(1, len(numbers) * (BAR + GAP))
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{text(title)}" '
        f'fill="currentColor" fill-opacity="0.65">{"".join(parts)}</svg>'
    )


def _fewer(values: list[float]) -> list[float]:
    """Return at most so many numbers as fit in a line: the greatest of each few."""
    if len(values) <= LONGEST:
        return values
    cuts = [i * len(values) // LONGEST for i in range(LONGEST + 1)]
    parts = (values[a:b] for a, b in pairwise(cuts))
    return [max(filter(math.isfinite, part), default=math.nan) for part in parts]


def _heights(values: list[float], least: float | None) -> list[float | None]:
    """Return each number as a share of the way from the least to the greatest; None: not finite."""
    finite = [value for value in values if math.isfinite(value)]
    low = min(finite, default=0.0) if least is None else least
    high = max(finite, default=0.0)
    # halves: the way between two far ends may be no finite number
    way = high / 2 - low / 2
    return [
        None
        if not math.isfinite(value)
        else 0.0
        if way <= 0
        else min(1.0, max(0.0, (value / 2 - low / 2) / way))
        for value in values
    ]
