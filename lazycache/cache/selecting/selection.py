"""What is selected of the leading dimensions of a lazy tensor: composed, never read. Pure.

`Dense` is an array of absolute rows of any shape: indexing it is indexing the array. `Grid` is
examples by positions, where examples may differ in length: positions count inside each example. A
grid becomes dense as soon as an index makes every example the same length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from lazycache.cache.selecting.examples import ExampleMap, ragged_arange
from lazycache.cache.selecting.indexing import FAR, index_array, is_array, is_mask
from lazycache.cache.selecting.places import checked_place, checked_places, slice_each, sliced
from lazycache.cache.selecting.plan import Rows, as_array
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

    def index(self, parts: tuple[Any, ...], *, what: str = "rows") -> Dense:
        """Return what normalised parts, one per dimension (or mask), select; None adds one.

        Raises:
            SelectionError: the index does not fit; `what` says what the rows are.
        """
        if not isinstance(self.rows, range) or len(parts) > 1:
            return Dense(index_array(as_array(self.rows), parts))
        (part,) = parts
        if isinstance(part, slice):
            return Dense(sliced(self.rows, part))
        if is_array(part):
            places = checked_places(part, len(self.rows), what=what)
            return Dense(self.rows.start + self.rows.step * places)
        return Dense(np.array(self.rows[checked_place(part, len(self.rows), what=what)]))

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
            SelectionError: an index out of range, where a position is names the example; new
                dimensions before or between examples of different length.
        """
        if any(map(_is_added, parts)):
            return self._arranged(parts)
        if len(parts) == 1:
            return self._masked(parts[0])
        example, position = parts
        if isinstance(example, int):
            place = checked_place(example, len(self.examples), what="examples")
            rows = Dense(self._rows_of(int(self.examples[place])))
            return rows.index((position,), what=f"rows in example {place}")
        if is_mask(position):
            position = checked_places(position, self.shape[1], what="positions")
        if is_array(example):
            return self._chosen(example, position)
        examples = self.examples
        chosen = sliced(examples, example) if isinstance(examples, range) else examples[example]
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
            rows = sliced(rows, window)
        base = int(self.map.offsets[number])
        return self.map.absolute(range(rows.start + base, rows.stop + base, rows.step))

    def _arranged(self, parts: tuple[Any, ...]) -> Dense:
        """Return what an index with None or a single bool in it selects."""
        if not self.is_ragged():
            return Dense(as_array(self.flat()).reshape(self.shape)).index(parts)
        found = self.index(tuple(part for part in parts if not _is_added(part)))
        if not isinstance(found, Dense):
            raise SelectionError(
                "examples of different length take no new dimension before or between them: add it "
                "behind them, x[:, :, None], or to what is dense, x.padded()[None], x.rows[None]."
            )
        # rows are in order already; an array of no bytes tells the shape
        shape = index_array(np.broadcast_to(np.int8(0), self.shape), parts).shape
        rows = as_array(found.flat())
        return Dense(rows.reshape(shape) if math.prod(shape) else np.empty(shape, np.int64))

    def _along(self, position: Any) -> Grid | Dense:
        if isinstance(position, slice):
            if position == _ALL:
                return self
            return replace(self, window=(*self.window, position))
        places = np.asarray(position, dtype=np.int64)
        shape = (len(self.examples),) + (1,) * places.ndim
        return Dense(self._at(np.arange(len(self.examples)).reshape(shape), places))

    def _chosen(self, example: np.ndarray, position: Any) -> Grid | Dense:
        places = checked_places(example, len(self.examples), what="examples")
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


def _is_added(part: Any) -> bool:
    """Whether a part indexes no dimension: None, True, False."""
    return part is None or (is_mask(part) and not part.ndim)
