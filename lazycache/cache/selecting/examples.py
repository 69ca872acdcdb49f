"""Which rows an example has: examples in order of (run, id), whatever order they were stored in.

A *logical* row counts through the examples in that order; an absolute row counts through the table
as stored. Captured in order, both are the same up to a shift, and a range of one is a range of the
other. Pure, built once per table (or per site that does not cover its table), in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from lazycache.cache.selecting.plan import Rows, as_array


class Runs(Protocol):
    """Runs of consecutive rows of one example, in row order, as a snapshot gives them."""

    @property
    def run(self) -> np.ndarray:
        """int64[n]: number of the run."""
        ...

    @property
    def example(self) -> np.ndarray:
        """int64[n]: id of the example in its run."""
        ...

    @property
    def start(self) -> np.ndarray:
        """int64[n]: first row."""
        ...

    @property
    def rows(self) -> np.ndarray:
        """int64[n]: how many."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ExampleMap:
    """The examples of a table in order, and where their rows are."""

    run: np.ndarray
    """int64[examples]: number of the run."""
    example: np.ndarray
    """int64[examples]: id of the example in its run."""
    lengths: np.ndarray
    """int64[examples]: rows of each; 0 where the site has none of them."""
    offsets: np.ndarray
    """int64[examples + 1]: logical row where each begins, and the total."""
    logical: np.ndarray
    """int64[segments]: first logical row of each run of rows that are consecutive as stored too."""
    stored: np.ndarray
    """int64[segments]: absolute row of it."""
    longest: int
    """The largest of `lengths`; 0 if there are no examples."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def total(self) -> int:
        """Rows of all examples."""
        return int(self.offsets[-1])

    def absolute(self, logical: Rows) -> Rows:
        """Return the absolute rows of logical rows; a range where they are evenly spaced."""
        if isinstance(logical, range):
            moved = self._moved_range(logical)
            if moved is not None:
                return moved
            logical = np.arange(logical.start, logical.stop, logical.step, dtype=np.int64)
        segment = np.searchsorted(self.logical, logical, side="right") - 1
        rows: np.ndarray = logical + (self.stored - self.logical)[segment]
        return rows

    def _moved_range(self, logical: range) -> range | None:
        if not len(logical):
            return range(0)
        ends = (logical[0], logical[-1])
        segment = int(np.searchsorted(self.logical, min(ends), side="right")) - 1
        if segment + 1 < len(self.logical) and max(ends) >= self.logical[segment + 1]:
            return None
        shift = int(self.stored[segment] - self.logical[segment])
        return range(logical.start + shift, logical.stop + shift, logical.step)

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return example and position of absolute rows that are here: int64[n] each."""
        # a run without rows begins where another one does
        held = np.flatnonzero(np.diff(np.append(self.logical, self.total)))
        order = held[np.argsort(self.stored[held])]
        segment = order[np.searchsorted(self.stored[order], rows, side="right") - 1]
        logical = rows - self.stored[segment] + self.logical[segment]
        example = np.searchsorted(self.offsets, logical, side="right") - 1
        return example, logical - self.offsets[example]

    def stored_order(self) -> Rows:
        """Return all absolute rows in storage order; a range where there is no hole."""
        sizes = np.diff(np.append(self.logical, self.total))
        order = np.argsort(self.stored)
        starts, sizes = self.stored[order], sizes[order]
        if not len(starts):
            return range(0)
        first, stop = int(starts[0]), int(starts[-1] + sizes[-1])
        if stop - first == self.total:
            return range(first, stop)
        return ragged_arange(starts, sizes)


def ragged_arange(starts: np.ndarray, counts: np.ndarray, step: int = 1) -> np.ndarray:
    """Return the ranges `start, start + step, ...` of `count` numbers each, one after the other.

    Example:
        >>> ragged_arange(np.array([10, 5]), np.array([3, 2])).tolist()
        [10, 11, 12, 5, 6]
    """
    before = np.cumsum(counts) - counts
    within = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(before, counts)
    numbers: np.ndarray = np.repeat(starts, counts) + within * step
    return numbers


def build(
    extents: Runs, *, covered: tuple[np.ndarray, np.ndarray] | None, listed: Runs | None = None
) -> ExampleMap:
    """Return the map of a table, or of the rows from `covered[0][i]` to `covered[1][i]` of it.

    All examples of the table are in it, also those of which no row is covered, and all that are
    `listed` (the table of examples), also those that have no row here: so example i is the same
    for all sites, whatever was kept of it.
    """
    run, example, number = _numbered(extents, listed)
    start, rows, owner = extents.start, extents.rows, number
    if covered is not None:
        start, rows, at = _overlap(extents.start, extents.rows, *covered)
        owner = number[at]
    lengths = np.zeros(len(run), dtype=np.int64)
    np.add.at(lengths, owner, rows)
    by_example = np.argsort(owner, kind="stable")
    logical, stored = _segments(start[by_example], rows[by_example])
    return ExampleMap(
        run=run,
        example=example,
        lengths=lengths,
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]),
        logical=logical,
        stored=stored,
        longest=int(lengths.max(initial=0)),
    )


def of_lengths(
    lengths: np.ndarray, *, run: np.ndarray | None = None, example: np.ndarray | None = None
) -> ExampleMap:
    """Return the map of examples of `lengths[i]` rows each, which follow each other as stored.

    Without `run` and `example` they are the examples 0, 1, 2, ... of run 0.

    Example:
        >>> of_lengths(np.array([2, 3])).absolute(range(2, 5))
        range(2, 5)
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    begins = np.zeros(1 if offsets[-1] else 0, dtype=np.int64)
    return ExampleMap(
        run=np.zeros_like(lengths) if run is None else run,
        example=np.arange(len(lengths), dtype=np.int64) if example is None else example,
        lengths=lengths,
        offsets=offsets,
        logical=begins,
        stored=begins,
        longest=int(lengths.max(initial=0)),
    )


def one_row_each(count: int) -> ExampleMap:
    """Return the map of `count` examples of one row each.

    Example:
        >>> one_row_each(3).total
        3
    """
    return of_lengths(np.ones(count, dtype=np.int64))


def part_of(examples: ExampleMap, first: np.ndarray, counts: np.ndarray) -> ExampleMap:
    """Return the map of `counts[i]` rows of each example i, from its row `first[i]` on.

    Cost: in proportion to these rows.
    """
    rows = as_array(examples.absolute(ragged_arange(examples.offsets[:-1] + first, counts)))
    logical, stored = _segments(rows, np.ones_like(rows))
    return replace(
        examples,
        lengths=counts,
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]),
        logical=logical,
        stored=stored,
        longest=int(counts.max(initial=0)),
    )


def _numbered(extents: Runs, listed: Runs | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return run and id of the distinct examples in order, and the number of each extent's."""
    run, example = extents.run, extents.example
    if listed is not None and not (
        np.array_equal(listed.run, run) and np.array_equal(listed.example, example)
    ):
        run = np.concatenate([run, listed.run])
        example = np.concatenate([example, listed.example])
    order = _order(run, example)
    run, example = run[order], example[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (run[1:] != run[:-1]) | (example[1:] != example[:-1])
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.cumsum(new) - 1
    return run[new], example[new], number[: len(extents.run)]


def _order(run: np.ndarray, example: np.ndarray) -> np.ndarray:
    """Sort by run, then example, then row; free where they are in order already."""
    rising = (run[1:] > run[:-1]) | ((run[1:] == run[:-1]) & (example[1:] >= example[:-1]))
    return np.arange(len(run)) if rising.all() else np.lexsort((example, run))


def _segments(start: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge neighbours in example order that are neighbours in storage too."""
    logical = np.cumsum(rows) - rows
    new = np.ones(len(start), dtype=np.bool_)
    new[1:] = start[1:] != start[:-1] + rows[:-1]
    return logical[new], start[new]


def _overlap(
    start: np.ndarray, rows: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut extents to the covered intervals: start and rows of the pieces, and their extents."""
    stop = start + rows
    cuts = np.unique(np.concatenate([start, stop, low, high]))
    left, right = cuts[:-1], cuts[1:]
    extent = np.searchsorted(start, left, side="right") - 1
    interval = np.searchsorted(low, left, side="right") - 1
    inside = (extent >= 0) & (interval >= 0)
    inside[inside] &= (right[inside] <= stop[extent[inside]]) & (
        right[inside] <= high[interval[inside]]
    )
    return left[inside], (right - left)[inside], extent[inside]
