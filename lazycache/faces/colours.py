"""Colours that people with any kind of sight tell apart, on light and dark pages. Pure.

Blue and orange differ for protanopes, deuteranopes and tritanopes, and in brightness too. As
backgrounds they are transparent: the text keeps the colour of its page.
"""

from __future__ import annotations

import math

POSITIVE, NEGATIVE = (230, 126, 20), (40, 110, 200)
"""Red, green and blue of values above and below zero."""

STRONGEST = 0.72
"""How opaque the strongest background is: text on it stays readable on white and on black."""

STEPS = 10
"""Steps of colour on each side of zero."""


def step(value: float, most: float) -> int:
    """Return a value as a step of colour: -10 (as far below zero as any) to 10; NaN is 0.

    Args:
        value: What is shown.
        most: The largest absolute value that is shown beside it.

    Example:
        >>> step(0.5, 1.0), step(-2.0, 1.0), step(0.0, 0.0), step(float("nan"), 1.0)
        (5, -10, 0, 0)
    """
    if math.isnan(value) or not most > 0:
        return 0
    return (
        max(-STEPS, min(STEPS, round(value / most * STEPS)))
        if math.isfinite(value / most)
        else (STEPS if value > 0 else -STEPS)
    )


def background(at: int) -> str:
    """Return the CSS colour of a step, transparent at 0.

    Example:
        >>> background(10), background(0)
        ('rgba(230,126,20,0.72)', 'transparent')
    """
    if not at:
        return "transparent"
    red, green, blue = POSITIVE if at > 0 else NEGATIVE
    return f"rgba({red},{green},{blue},{abs(at) / STEPS * STRONGEST:.2f})"
