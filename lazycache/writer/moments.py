"""The numbers of a block, gathered from its chunks. For one thread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lazycache.writer.numbers import Numbers
from lazycache.writer.zone_numbers import ZoneNumbers


@dataclass(frozen=True, slots=True, eq=False)
class BlockNumbers:
    """What is kept of some consecutive rows; every array is [units]."""

    rows: int
    """How many."""
    odd: np.ndarray | None
    """int32[3, units]: values that are NaN, +Inf, -Inf; None: none."""
    min: np.ndarray
    """The least finite one, in the site's dtype; NaN where there is none."""
    max: np.ndarray
    """The greatest finite one, likewise."""
    sum: np.ndarray
    """float64 or int64: the sum of the finite ones."""
    mean: np.ndarray
    """float64: their mean, NaN where there is none."""
    m2: np.ndarray
    """float64: the sum of their squared deviations from the mean."""


class Moments:
    """Merges the zones of each chunk, and what there was before (Chan).

    So the squared deviations lose nothing where the mean is large, and nothing is read twice.

    Example:
        >>> numbers = Numbers("float64")
        >>> moments = Moments(numbers)
        >>> for rows in ([[1e9]], [[1e9 + 1], [float("nan")]]):
        ...     moments.add(ZoneNumbers([np.array(rows)], numbers, with_groups=False))
        >>> block = moments.close()
        >>> block.rows, block.odd[0], block.mean - 1e9, block.m2
        (3, array([1], dtype=int32), array([0.5]), array([0.5]))
    """

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self.rows = 0
        """Rows of the block so far."""
        self._state: _State | None = None

    def add(self, zones: ZoneNumbers) -> None:
        """Take the zones of the next chunk. Cost: some passes over them."""
        with np.errstate(all="ignore"):  # 0 / 0; and float64 may overflow, as in torch
            state = _merged_zones(zones, is_float=self._numbers.is_float)
            self._state = state if self._state is None else _merged(self._state, state)
        self.rows += int(zones.rows.sum())

    def close(self) -> BlockNumbers:
        """Return the numbers of the block, and begin another."""
        state, self._state = self._state, None
        assert state is not None, "there was a chunk"
        rows, self.rows = self.rows, 0
        return BlockNumbers(
            rows=rows,
            odd=state.odd,
            min=self._numbers.stored(state.low),
            max=self._numbers.stored(state.high),
            sum=state.sum if state.exact is None else state.exact,
            mean=np.where(state.count > 0, state.mean, np.nan),
            m2=state.m2,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """Numbers of some rows; every array is [units]. Where the count is 0, so is the mean."""

    count: np.ndarray
    odd: np.ndarray | None
    low: np.ndarray
    high: np.ndarray
    sum: np.ndarray
    exact: np.ndarray | None
    mean: np.ndarray
    m2: np.ndarray


def _merged_zones(zones: ZoneNumbers, *, is_float: bool) -> _State:
    exact = zones.exact
    if exact is None and not is_float:
        exact = zones.sum.astype(np.int64)  # of 32 bits: nothing is rounded yet
    counts = zones.rows[:, None] - (0 if zones.missing is None else zones.missing)
    count = np.broadcast_to(counts.sum(axis=0), zones.sum.shape[1:])
    total = zones.sum.sum(axis=0)
    mean = total / np.maximum(count, 1)
    between = counts * (zones.sum / np.maximum(counts, 1) - mean) ** 2  # 0 where no value counts
    return _State(
        count=count,
        odd=zones.odd,
        low=zones.low.min(axis=0),
        high=zones.high.max(axis=0),
        sum=total,
        exact=None if exact is None else exact.sum(axis=0),
        mean=mean,
        m2=zones.m2.sum(axis=0) + between.sum(axis=0),
    )


def _merged(one: _State, other: _State) -> _State:
    count, total = one.count + other.count, one.sum + other.sum
    some = np.maximum(count, 1)
    between = (other.mean - one.mean) ** 2 * (one.count * (other.count / some))
    return _State(
        count=count,
        odd=_added(one.odd, other.odd),
        low=np.minimum(one.low, other.low),
        high=np.maximum(one.high, other.high),
        sum=total,
        exact=_added(one.exact, other.exact),
        mean=total / some,
        m2=one.m2 + other.m2 + between,
    )


def _added(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    if one is None or other is None:
        return other if one is None else one
    total: np.ndarray = one + other
    return total
