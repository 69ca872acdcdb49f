"""The ids of examples: counted or given, unique within a run, remembered as intervals. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import numpy as np

_LOOSE = 1024
"""Ids that may lie beside the intervals before they are sorted into them."""


class ExampleIds:
    """A set of ids kept as disjoint intervals: a million counted ids cost as much as one.

    An id that does not follow the largest interval waits in a set, which is sorted into the
    intervals when it outgrows them. So ids in any order cost logarithmic time on average.

    Example:
        >>> ids = ExampleIds([3, 1, 2])
        >>> 2 in ids, 4 in ids, len(ids), ids.after
        (True, False, 3, 4)
    """

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._loose: set[int] = set(ids)
        self._count = len(self._loose)
        self._after = max(self._loose, default=-1) + 1
        self._settle()

    def __contains__(self, example: object) -> bool:
        """Say whether an id is there, in logarithmic time of the number of intervals."""
        if not isinstance(example, int):
            return False
        if example in self._loose:
            return True
        at = bisect_right(self._starts, example) - 1
        return at >= 0 and example < self._stops[at]

    def __len__(self) -> int:
        """Return how many ids there are."""
        return self._count

    @property
    def after(self) -> int:
        """One more than the largest id; 0 if there is none."""
        return self._after

    def last_of(self, *, step: int, start: int) -> int | None:
        """Return the largest id among `start`, `start + step`, ...; None if none is there.

        Cost: looks at the ids from the largest interval downwards.

        Example:
            >>> ExampleIds([0, 1, 2, 9]).last_of(step=2, start=0)
            2
        """
        loose = [i for i in self._loose if i >= start and (i - start) % step == 0]
        found = max(loose, default=None)
        for first, stop in zip(reversed(self._starts), reversed(self._stops), strict=True):
            last = stop - 1 - (stop - 1 - start) % step
            if last >= max(first, start):
                return last if found is None else max(found, last)
        return found

    def update(self, ids: Iterable[int]) -> None:
        """Add ids; those that are there already change nothing."""
        for example in ids:
            if example not in self:
                self._add(example)

    def _add(self, example: int) -> None:
        self._after = example + 1 if not self._count else max(self._after, example + 1)
        self._count += 1
        if self._stops and self._stops[-1] == example:
            self._stops[-1] += 1
            return
        self._loose.add(example)
        # as many as there are intervals: each is then moved a bounded number of times on average
        if len(self._loose) > max(_LOOSE, len(self._starts)) or self._count == 1:
            self._settle()

    def _settle(self) -> None:
        """Sort the loose ids into the intervals; those that touch become one."""
        if not self._loose:
            return
        loose = np.fromiter(self._loose, dtype=np.int64, count=len(self._loose))
        starts = np.concatenate([np.array(self._starts, dtype=np.int64), loose])
        stops = np.concatenate([np.array(self._stops, dtype=np.int64), loose + 1])
        starts.sort()
        stops.sort()  # intervals are disjoint, so that their ends are in the order of their starts
        apart = np.flatnonzero(stops[:-1] != starts[1:]) + 1
        self._starts = starts[np.concatenate([[0], apart])].tolist()
        self._stops = stops[np.concatenate([apart - 1, [len(stops) - 1]])].tolist()
        self._loose = set()
