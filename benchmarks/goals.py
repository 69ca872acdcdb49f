"""Goals of a comparison, in words that can be checked.

    "limit >= 0.9"             ours is at 0.9 of the speed of the (fastest) limit
    "best peer >= 3"           ours is three times as fast as the fastest peer
    "forward only <= 1.05"     ours takes at most 1.05 times as long as the way of that name
    "limit >= 0.6; best peer >= 3"

Ours is the first way of ours. Ratios are of the same round; what counts is their median.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GOAL = re.compile(r"^(.+?)\s*(>=|<=)\s*([0-9.]+)$")

Row = Mapping[str, Any]
"""A `Measured` as JSON has it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal and what came out."""

    goal: str
    ratio: float | None
    """Median over the rounds; None where what it is beside was not measured."""
    reached: bool


def ours_of(ways: Sequence[Row]) -> Row | None:
    """Return the way that everything is set beside: the first of ours that was measured."""
    return next((way for way in ways if way["kind"] == "ours" and way["seconds"]), None)


def ratios(ways: Sequence[Row], other: Row) -> list[float]:
    """How many times as long the other one took as ours, round by round."""
    ours = ours_of(ways)
    if ours is None:
        return []
    pairs = zip(other["seconds"], ours["seconds"], strict=False)  # a slow way has fewer rounds
    return [theirs / mine for theirs, mine in pairs]


def judge(goal: str, ways: Sequence[Row]) -> list[Verdict]:
    """Say of every goal whether it was reached.

    Raises:
        ValueError: a goal is not of the form "WHAT >= NUMBER", or no way has that name.
    """
    return [_one(part.strip(), ways) for part in goal.split(";") if part.strip()]


def _one(goal: str, ways: Sequence[Row]) -> Verdict:
    found = _GOAL.match(goal)
    if found is None:
        raise ValueError(f'a goal reads "limit >= 0.9" or "a way <= 1.05", not {goal!r}')
    subject, sign, number = found[1], found[2], float(found[3])
    other = _beside(subject, ways)
    if other is None or not ratios(ways, other):
        return Verdict(goal, None, reached=False)
    if sign == ">=":
        ratio = statistics.median(ratios(ways, other))
        return Verdict(goal, ratio, reached=ratio >= number)
    ratio = statistics.median(1 / one for one in ratios(ways, other))
    return Verdict(goal, ratio, reached=ratio <= number)


def _beside(subject: str, ways: Sequence[Row]) -> Row | None:
    """Return the way that a goal names; None if it was not measured."""
    kind = {"limit": "limit", "best peer": "peer"}.get(subject)
    named = [way for way in ways if (way["kind"] == kind if kind else way["name"] == subject)]
    if not named and kind is None:
        there = ", ".join(way["name"] for way in ways)
        raise ValueError(f"the goal is about {subject!r}, there are {there}, limit, best peer")
    timed = [way for way in named if way["seconds"]]
    return min(timed, key=lambda way: statistics.median(way["seconds"]), default=None)
