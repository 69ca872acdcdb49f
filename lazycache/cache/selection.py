"""What is selected of the leading dimensions of a lazy tensor: composed, never read. Pure.

`Dense` is an array of absolute rows of any shape: indexing it is indexing the array. `Grid` is
examples by positions, where examples may differ in length: positions count inside each example. A
grid becomes dense as soon as an index makes every example the same length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from lazycache.cache.examples import ExampleMap, ragged_arange
from lazycache.cache.indexing import FAR, index_array, is_array
from lazycache.cache.plan import Rows, as_array
from lazycache.errors import SelectionError

_ALL = slice(None)


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """Rows in an array of any shape; a range of rows stays a range as long as it can."""

    rows: Rows
    """Absolute rows: a range (one dimension) or int64 of any shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leading dimensions."""
        return (len(self.rows),) if isinstance(self.rows, range) else self.rows.shape

    @property
    def ndim(self) -> int:
        """How many leading dimensions."""
        return 1 if isinstance(self.rows, range) else self.rows.ndim

    @property
    def count(self) -> int:
        """How many rows."""
        return len(self.rows) if isinstance(self.rows, range) else self.rows.size

    def flat(self) -> Rows:
        """Return the rows in one dimension."""
        return self.rows if isinstance(self.rows, range) else self.rows.reshape(-1)

    def index(self, parts: tuple[Any, ...]) -> Dense:
        """Return what normalised parts, one per dimension (or mask), select."""
        if not isinstance(self.rows, range):
            return Dense(index_array(self.rows, parts))
        (part,) = parts
        if isinstance(part, slice):
            return Dense(_sliced(self.rows, part))
        if is_array(part):
            places = _checked_places(part, len(self.rows), what="rows")
            return Dense(self.rows.start + self.rows.step * places)
        return Dense(np.array(self.rows[_checked_place(part, len(self.rows), what="rows")]))

    def entries(self) -> Iterator[Dense]:
        """Yield what each index of the first dimension selects."""
        return (Dense(np.asarray(rows)) for rows in self.rows)

    def blocks(self, *, rows: int) -> Iterator[Dense]:
        """Cut along the first dimension into parts of about `rows` rows, at least one entry."""
        step = max(1, rows // max(1, self.count // max(1, self.shape[0])))
        for start in range(0, self.shape[0], step):
            yield Dense(self.rows[start : start + step])


@dataclass(frozen=True, eq=False)
class Grid:
    """Examples by positions of a table, the positions counted inside each example.

    Without slots, for what is worked out once: lengths and positions of all selected examples.
    """

    map: ExampleMap
    """All examples of the table."""
    examples: Rows
    """Numbers of the selected examples in the map."""
    window: tuple[slice, ...] = ()
    """Slices applied to each example's rows, one after the other."""

    @property
    def is_whole(self) -> bool:
        """Whether every row of the map is selected, in order."""
        everyone = range(len(self.map))
        return not self.window and isinstance(self.examples, range) and self.examples == everyone

    @property
    def ndim(self) -> int:
        """Examples and positions."""
        return 2

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Examples, and positions of the longest."""
        if self.is_whole:
            return (len(self.map), self.map.longest)
        if not len(self.examples):
            # as torch: selecting no examples leaves the size of the other dimensions
            longest = range(self.map.longest)
            for window in self.window:
                longest = longest[window]
            return (0, len(longest))
        return (len(self.examples), int(self.lengths().max()))

    @property
    def count(self) -> int:
        """How many rows."""
        return self.map.total if self.is_whole else int(self.lengths().sum())

    def lengths(self) -> np.ndarray:
        """Return the selected rows of each example: int64[examples]."""
        return self._positions[2]

    def is_ragged(self) -> bool:
        """Whether examples differ in length."""
        lengths = self.lengths()
        return bool((lengths != lengths[:1]).any())

    def flat(self) -> Rows:
        """Return the absolute rows, example after example."""
        if isinstance(self.examples, range) and self.examples.step == 1 and not self.window:
            low, high = self.examples.start, max(self.examples.start, self.examples.stop)
            return self.map.absolute(range(int(self.map.offsets[low]), int(self.map.offsets[high])))
        start, step, counts = self._positions
        begins = self.map.offsets[as_array(self.examples)] + start
        return self.map.absolute(ragged_arange(begins, counts, step))

    def stored(self) -> Rows:
        """Return the absolute rows in storage order."""
        if self.is_whole:
            return self.map.stored_order()
        rows = self.flat()
        return rows if isinstance(rows, range) else np.sort(rows)

    def index(self, parts: tuple[Any, ...]) -> Grid | Dense:
        """Return what normalised parts (one per dimension, or one mask over both) select.

        Raises:
            SelectionError: an index out of range; names the example where a position is.
        """
        if len(parts) == 1:
            return self._masked(parts[0])
        example, position = parts
        if isinstance(example, int):
            number = self.examples[_checked_place(example, len(self.examples), what="examples")]
            return Dense(self._rows_of(int(number))).index((position,))
        if is_array(position) and position.dtype == np.bool_:
            position = _checked_places(position, self.shape[1], what="positions")
        if is_array(example):
            return self._chosen(example, position)
        examples = self.examples
        chosen = _sliced(examples, example) if isinstance(examples, range) else examples[example]
        kept = replace(self, examples=chosen)
        return kept._along(position)  # noqa: SLF001  # own class

    def entries(self) -> Iterator[Dense]:
        """Yield the rows of each example."""
        return (Dense(self._rows_of(number)) for number in as_array(self.examples).tolist())

    def blocks(self, *, rows: int) -> Iterator[Grid]:
        """Cut along the examples into grids of about `rows` rows, at least one example each."""
        ends = np.cumsum(self.lengths())
        start = 0
        while start < len(self.examples):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + rows, side="right")))
            yield replace(self, examples=self.examples[start:stop])
            start = stop

    @cached_property
    def _positions(self) -> tuple[np.ndarray, int, np.ndarray]:
        """Per example: first position, step, and how many, after all windows."""
        counts = self.map.lengths if self.is_whole else self.map.lengths[as_array(self.examples)]
        start, step = np.zeros_like(counts), 1
        for window in self.window:
            first, counts = slice_each(window, counts)
            start = start + first * step
            # beyond any length a step selects one entry at most, and how far it is matters not
            step = max(-FAR, min(FAR, step * (1 if window.step is None else window.step)))
        return start, step, counts

    def _rows_of(self, number: int) -> Rows:
        rows = range(int(self.map.lengths[number]))
        for window in self.window:
            rows = _sliced(rows, window)
        base = int(self.map.offsets[number])
        return self.map.absolute(range(rows.start + base, rows.stop + base, rows.step))

    def _along(self, position: Any) -> Grid | Dense:
        if isinstance(position, slice):
            if position == _ALL:
                return self
            return replace(self, window=(*self.window, position))
        places = np.asarray(position, dtype=np.int64)
        shape = (len(self.examples),) + (1,) * places.ndim
        return Dense(self._at(np.arange(len(self.examples)).reshape(shape), places))

    def _chosen(self, example: np.ndarray, position: Any) -> Grid | Dense:
        places = _checked_places(example, len(self.examples), what="examples")
        if is_array(position):
            try:
                pairs = np.broadcast_arrays(places, position)
            except ValueError as exc:
                raise SelectionError(
                    f"index arrays of shapes {places.shape} and {position.shape} make no pairs; "
                    "for all their combinations index in two steps, x[examples][:, positions]."
                ) from exc
            return Dense(self._at(*pairs))
        if isinstance(position, int):
            return Dense(self._at(places, np.asarray(position)))
        kept = replace(self, examples=as_array(self.examples)[places.reshape(-1)])
        found = kept._along(position)  # noqa: SLF001  # own class
        if places.ndim == 1 or not isinstance(found, Grid):
            return found
        if found.is_ragged():
            raise SelectionError(
                f"examples of different length cannot be arranged as {places.shape}: "
                "index them with one dimension."
            )
        rows = found.flat()
        dense = as_array(rows) if isinstance(rows, range) else rows
        return Dense(dense.reshape(*places.shape, found.shape[1]))

    def _masked(self, mask: np.ndarray) -> Dense:
        if mask.shape != self.shape:
            raise SelectionError(f"a mask of shape {mask.shape} for {self.shape}.")
        return Dense(self._at(*np.nonzero(mask)))

    def _at(self, places: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the rows at positions of the selected examples at `places`; shapes broadcast."""
        start, step, counts = self._positions
        length = counts[places]
        bad = (positions >= length) | (positions < -length)
        if bad.any():
            where = tuple(i[0] for i in np.nonzero(bad))
            place = int(np.broadcast_to(places, bad.shape)[where])
            raise SelectionError(
                f"position {int(np.broadcast_to(positions, bad.shape)[where])} of example {place}, "
                f"which has {int(counts[place])} rows here. .lengths has them all; "
                "a slice takes what there is."
            )
        local = start[places] + np.where(positions < 0, positions + length, positions) * step
        base = self.map.offsets[as_array(self.examples)[places]]
        rows = self.map.absolute(base + local)
        assert isinstance(rows, np.ndarray)
        return rows


Lead = Dense | Grid
"""The leading dimensions of a lazy tensor."""


def slice_each(window: slice, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply a slice to sequences of `counts` entries: the first index and the new count of each.

    Example:
        >>> first, counts = slice_each(slice(-2, None), np.array([5, 1]))
        >>> first.tolist(), counts.tolist()
        ([3, 0], [2, 1])
    """
    step = 1 if window.step is None else window.step
    least, most = (0, counts) if step > 0 else (-1, counts - 1)
    first = _end(window.start, counts, least, most, default=least if step > 0 else most)
    stop = _end(window.stop, counts, least, most, default=most if step > 0 else least)
    span = stop - first if step > 0 else first - stop
    return first, np.maximum(0, -(-span // abs(step)))


def _end(value: int | None, counts: np.ndarray, least: Any, most: Any, *, default: Any) -> Any:
    if value is None:
        return np.broadcast_to(default, counts.shape)
    at = counts + value if value < 0 else np.full_like(counts, value)
    return np.clip(at, least, np.maximum(most, least))


def _sliced(rows: range, window: slice) -> range:
    """Slice a range; of one entry or none the step is 1, however large it became."""
    kept = rows[window]
    return kept if len(kept) > 1 else range(kept.start, kept.start + len(kept))


def _checked_place(place: int, size: int, *, what: str) -> int:
    if not -size <= place < size:
        raise SelectionError(f"index {place} is out of range: there are {size:,} {what}.")
    return place % size


def _checked_places(part: np.ndarray, size: int, *, what: str) -> np.ndarray:
    """Return an index array or mask as places from 0."""
    if part.dtype == np.bool_:
        if part.shape != (size,):
            raise SelectionError(f"a mask of shape {part.shape} for {size:,} {what}.")
        return np.flatnonzero(part)
    least, most = int(part.min(initial=0)), int(part.max(initial=-1))
    if least < -size or most >= size:
        first = least if least < -size else most
        raise SelectionError(f"index {first} is out of range: there are {size:,} {what}.")
    return np.where(part < 0, part + size, part) if least < 0 else part
