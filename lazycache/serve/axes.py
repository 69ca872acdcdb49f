"""Where the marks of an axis stand, and what is written at them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

MARKS = 5
"""About how many marks an axis has."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to pixels."""

    least: float
    """The value at the first pixel."""
    most: float
    """The value at the last pixel; larger than the least."""
    start: float
    """The first pixel."""
    stop: float
    """The last pixel; may be less: pixels count downwards."""

    @staticmethod
    def over(values: list[float], start: float, stop: float, *, zero: bool = False) -> Axis:
        """Return an axis that has room for values.

        Args:
            values: At least one; finite.
            start: The pixel of the least.
            stop: The pixel of the greatest.
            zero: Whether zero is on it, whatever the values are.
        """
        least, most = min(values), max(values)
        if zero:
            least, most = min(least, 0.0), max(most, 0.0)
        if not most > least:  # one value: in the middle
            room = abs(most) / 2 or 1.0
            least, most = least - room, most + room
        return Axis(least, most, start, stop)

    def at(self, value: float) -> float:
        """Return the pixel of a value, to a tenth.

        Example:
            >>> Axis(0.0, 10.0, 100.0, 0.0).at(2.5)
            75.0
        """
        # halves: the difference of two floats may be no float
        share = (value / 2 - self.least / 2) / (self.most / 2 - self.least / 2)
        return round(self.start + share * (self.stop - self.start), 1)

    def marks(self) -> list[float]:
        """Return round values on the axis, about five.

        Example:
            >>> Axis(0.0, 10.0, 0.0, 1.0).marks()
            [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        """
        gap = _round_up((self.most / MARKS) - (self.least / MARKS))
        if not gap > 0 or not math.isfinite(gap):
            return [self.least, self.most]
        first = math.ceil(self.least / gap)
        last = math.floor(self.most / gap)
        return [float(f"{k * gap:.12g}") for k in range(first, last + 1)] or [self.least, self.most]


def _round_up(gap: float) -> float:
    """Return the next of 1, 2, 2.5, 5 and 10 times a power of ten."""
    if not gap > 0 or not math.isfinite(gap):
        return 0.0
    power: float = 10.0 ** math.floor(math.log10(gap))
    return next((m * power for m in (1, 2, 2.5, 5) if m * power >= gap * 0.999), 10 * power)
