"""The ids of examples: counted or given, unique within a run, remembered as intervals. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class ExampleIds:
    """A set of ids kept as disjoint intervals: a million counted ids cost as much as one.

    Example:
        >>> ids = ExampleIds([3, 1, 2])
        >>> 2 in ids, 4 in ids, len(ids), ids.after
        (True, False, 3, 4)
    """

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0
        self.update(ids)

    def __contains__(self, example: object) -> bool:
        """Say whether an id is there, in logarithmic time of the number of intervals."""
        if not isinstance(example, int):
            return False
        at = bisect_right(self._starts, example) - 1
        return at >= 0 and example < self._stops[at]

    def __len__(self) -> int:
        """Return how many ids there are."""
        return self._count

    @property
    def after(self) -> int:
        """One more than the largest id; 0 if there is none."""
        return self._stops[-1] if self._stops else 0

    def update(self, ids: Iterable[int]) -> None:
        """Add ids; those that are there already change nothing."""
        for example in ids:
            self._add(example)

    def _add(self, example: int) -> None:
        at = bisect_right(self._starts, example)
        if at and example < self._stops[at - 1]:
            return
        joins_left = at > 0 and self._stops[at - 1] == example
        joins_right = at < len(self._starts) and self._starts[at] == example + 1
        if joins_left and joins_right:
            self._stops[at - 1] = self._stops.pop(at)
            self._starts.pop(at)
        elif joins_left:
            self._stops[at - 1] = example + 1
        elif joins_right:
            self._starts[at] = example
        else:
            self._starts.insert(at, example)
            self._stops.insert(at, example + 1)
        self._count += 1
