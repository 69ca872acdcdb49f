"""Goals of a comparison, in words that can be checked.

    "limit >= 0.9"             ours is at 0.9 of the speed of the (fastest) limit
    "best peer >= 3"           ours is three times as fast as the fastest peer
    "forward only <= 1.05"     ours takes at most 1.05 times as long as the way of that name
    "bytes of a scan >= 63"    the way "a scan" reads 63 times as many bytes as ours
    "MB/s >= 1000"             of ours; so are "seconds <= 0.1" and "requests <= 1"
    "bytes / values <= 1.05"   bytes that ours reads or writes, beside those it is about
    "limit >= 0.6; best peer >= 3"

Ours is the first way of ours. Ratios are of the same round; what counts is their median.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GOAL = re.compile(r"^(.+?)\s*(>=|<=)\s*([0-9.]+)$")

_BYTES_OF = "bytes of "

Row = Mapping[str, Any]
"""A `Measured` as JSON has it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal and what came out."""

    goal: str
    found: float | None
    """A ratio, median over the rounds, or the number itself; None if it was not measured."""
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


def judge(comparison: Row) -> list[Verdict]:
    """Say of every goal of a comparison whether it was reached.

    Raises:
        ValueError: a goal is not of the form "WHAT >= NUMBER", or no way has that name.
    """
    goals = (part.strip() for part in comparison["goal"].split(";"))
    return [_one(goal, comparison) for goal in goals if goal]


def _one(goal: str, comparison: Row) -> Verdict:
    parts = _GOAL.match(goal)
    if parts is None:
        raise ValueError(f'a goal reads "limit >= 0.9" or "a way <= 1.05", not {goal!r}')
    subject, sign, number = parts[1], parts[2], float(parts[3])
    if subject in _OWN:
        ours = ours_of(comparison["ways"])
        found = None if ours is None else _OWN[subject](ours, comparison["nbytes"])
    elif subject.startswith(_BYTES_OF):
        found = _bytes_beside(subject.removeprefix(_BYTES_OF), comparison["ways"])
    else:
        found = _time_beside(subject, comparison["ways"], slower=sign == ">=")
    if found is None:
        return Verdict(goal, None, reached=False)
    return Verdict(goal, found, reached=found >= number if sign == ">=" else found <= number)


def _took(ours: Row) -> float:
    return statistics.median(ours["seconds"])


_OWN: Mapping[str, Callable[[Row, int], float | None]] = {
    "seconds": lambda ours, _: _took(ours),
    "MB/s": lambda ours, nbytes: nbytes / _took(ours) / 1e6,
    "requests": lambda ours, _: ours["requests"],
    "bytes / values": lambda ours, nbytes: ours["nbytes"] and ours["nbytes"] / nbytes,
}
"""What is asked of ours itself."""


def _time_beside(subject: str, ways: Sequence[Row], *, slower: bool) -> float | None:
    """How often the time of ours the other one takes, or the other way round."""
    other = _named(subject, ways)
    found = [] if other is None else ratios(ways, other)
    if not found:
        return None
    return statistics.median(found if slower else [1 / one for one in found])


def _bytes_beside(subject: str, ways: Sequence[Row]) -> float | None:
    """How often the bytes of ours the other one reads."""
    other, ours = _named(subject, ways), ours_of(ways)
    if other is None or ours is None or not ours["nbytes"] or other["nbytes"] is None:
        return None
    found: float = other["nbytes"] / ours["nbytes"]
    return found


def _named(subject: str, ways: Sequence[Row]) -> Row | None:
    """Return the way that a goal names; None if it was not measured."""
    kind = {"limit": "limit", "best peer": "peer"}.get(subject)
    named = [way for way in ways if (way["kind"] == kind if kind else way["name"] == subject)]
    if not named and kind is None:
        there = ", ".join(way["name"] for way in ways)
        raise ValueError(f"the goal is about {subject!r}, there are {there}, limit, best peer")
    timed = [way for way in named if way["seconds"]]
    return min(timed, key=lambda way: statistics.median(way["seconds"]), default=None)
