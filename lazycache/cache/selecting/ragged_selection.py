"""What a ragged tensor selects of examples, heads, queries and keys: composed, never read. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from lazycache.cache.selecting.along import Along
from lazycache.cache.selecting.examples import ExampleMap, ragged_arange
from lazycache.cache.selecting.indexing import consumed, index_array, is_array, is_mask
from lazycache.cache.selecting.plan import Rows, as_array, as_range
from lazycache.errors import SelectionError

MOST = 1 << 62
"""More rows than there can be."""


class Groups(Protocol):
    """Rows in groups; a key is counted inside the group of its row."""

    def __len__(self) -> int:
        """How many groups."""
        ...

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of groups: int64[n]."""
        ...

    def rows(self, numbers: np.ndarray, *, first: int = 0, most: int = MOST) -> np.ndarray:
        """Return absolute rows of groups, group after group: int64[n].

        Of each, which has it, its row `first` and those after it, `most` at most.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ExampleGroups:
    """The examples of a table: a group has the rows of its example."""

    map: ExampleMap
    """The examples."""

    def __len__(self) -> int:
        return len(self.map)

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of examples: int64[n]."""
        lengths: np.ndarray = self.map.lengths[numbers]
        return lengths

    def rows(self, numbers: np.ndarray, *, first: int = 0, most: int = MOST) -> np.ndarray:
        """Return absolute rows of examples, example after example: int64[n]."""
        counts = np.minimum(self.map.lengths[numbers] - first, most)
        logical = ragged_arange(self.map.offsets[numbers] + first, counts)
        return as_array(self.map.absolute(logical))


@dataclass(frozen=True, slots=True, eq=False)
class RowGroups:
    """Rows one by one: each is its own group."""

    chosen: Rows
    """Absolute rows: a range or int64[n]."""

    def __len__(self) -> int:
        return len(self.chosen)

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Return one row each: int64[n]."""
        return np.ones(len(numbers), dtype=np.int64)

    def rows(self, numbers: np.ndarray, *, first: int = 0, most: int = MOST) -> np.ndarray:  # noqa: ARG002  # of one
        """Return these rows: int64[n]."""
        if isinstance(self.chosen, range):
            return self.chosen.start + numbers * self.chosen.step
        rows: np.ndarray = self.chosen[numbers]
        return rows


@dataclass(frozen=True, eq=False)
class RaggedSelection:
    """A selection of examples by heads by queries by keys.

    Without slots, for what is worked out once.
    """

    groups: Groups
    """What keys and queries are counted in: examples, or single rows."""
    examples: np.ndarray
    """int64[n]: numbers of groups; int64[]: of one, and the dimension is gone."""
    heads: np.ndarray
    """int64[n]: places in a row; int64[]: one, and the dimension is gone."""
    queries: Along
    """Rows of each group."""
    keys: Along
    """Keys of each group: as many as its widest row has."""

    @staticmethod
    def of_examples(examples: ExampleMap, *, heads: int) -> RaggedSelection:
        """Return everything."""
        groups, numbers = ExampleGroups(examples), np.arange(len(examples))
        return RaggedSelection(groups, numbers, np.arange(heads), Along(), Along())

    def by_row(self) -> RaggedSelection:
        """Return the selected rows one by one, in storage order, each with its own keys.

        Raises:
            SelectionError: keys were selected, which were those of the examples.
        """
        if not self.keys.is_whole:
            raise SelectionError(
                "keys were selected of the examples: take .rows first, x.rows[..., keys]."
            )
        rows = np.sort(self.rows)
        one = Along(places=np.zeros((), dtype=np.int64))
        groups = RowGroups(as_range(rows) or rows)
        return replace(self, groups=groups, examples=np.arange(len(rows)), queries=one)

    @property
    def removed(self) -> tuple[bool, bool, bool, bool]:
        """Which of the four dimensions are gone."""
        gone = (not self.examples.ndim, not self.heads.ndim)
        return (*gone, self.queries.removed, self.keys.removed)

    @cached_property
    def numbers(self) -> np.ndarray:
        """int64[n]: the groups."""
        return self.examples.reshape(-1)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64[n]: selected queries of each group."""
        return self.queries.counts(self.groups.lengths(self.numbers))

    @property
    def rows(self) -> np.ndarray:
        """int64[n]: absolute rows of the selected queries, group after group."""
        if self.queries.is_whole:
            return self.groups.rows(self.numbers)
        parts = [self.rows_of(place) for place in range(len(self.numbers))]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    def rows_of(self, place: int) -> np.ndarray:
        """Return the absolute rows of the selected queries of one group."""
        number = self.numbers[place : place + 1]
        rows = self.groups.rows(number)
        return rows if self.queries.is_whole else rows[as_array(self.queries.of(len(rows)))]

    def index(self, parts: tuple[Any, ...]) -> RaggedSelection:
        """Return what normalised parts, one for each dimension that is left, select.

        Raises:
            SelectionError: an index out of range, several index arrays, a mask over several
                dimensions, or a new dimension. Keys are not looked at: how many there are is not
                known before it is read.
        """
        if not all(map(consumed, parts)):
            raise SelectionError(
                "None adds no dimension (nor does a single bool) where examples differ in queries "
                "and keys: x[i].load()[None], or x.padded()[None]."
            )
        if any(consumed(part) > 1 for part in parts):
            raise SelectionError("a mask over several dimensions: load first, x.load()[mask].")
        if sum(map(is_array, parts)) > 1:
            raise SelectionError(
                "several index arrays at once would be paired up: index in steps, "
                "x[examples][:, heads]."
            )
        left = iter(parts)
        example, head, query, key = (slice(None) if gone else next(left) for gone in self.removed)
        examples = self.examples if self.removed[0] else _picked(self.examples, example)
        if is_mask(query):
            query = replace(self, examples=examples).masked(query)
        chosen = replace(
            self,
            examples=examples,
            heads=self.heads if self.removed[1] else _picked(self.heads, head),
            queries=self.queries if self.removed[2] else self.queries.index(query),
            keys=self.keys if self.removed[3] else self.keys.index(key),
        )
        if not self.removed[2]:
            chosen.check(chosen.queries, self.groups.lengths(chosen.numbers), what="query")
        return chosen

    def masked(self, mask: np.ndarray) -> np.ndarray:
        """Return the places of a mask of queries, of which all examples must have as many.

        Raises:
            SelectionError: they have not.
        """
        if mask.ndim != 1 or (self.lengths != len(mask)).any():
            raise SelectionError(
                f"a mask of shape {mask.shape} for queries, whose number differs from example to "
                "example (.lengths): use integers, slices, lists of integers, or one example."
            )
        return np.flatnonzero(mask)

    def check(self, along: Along, sizes: np.ndarray, *, what: str) -> None:
        """Refuse places that one of the groups, whose sizes are given, does not have.

        Raises:
            SelectionError: names the example.
        """
        outside = along.outside(sizes) & (self.lengths > 0)
        if outside.any():
            place = int(np.flatnonzero(outside)[0])
            raise SelectionError(
                f"{what} {along.shown()} of entry {place} of the first dimension, which has "
                f"{int(Along(along.windows).counts(sizes)[place])} here. .lengths and .widths "
                "have them all; a slice takes what there is."
            )


def _picked(numbers: np.ndarray, part: Any) -> np.ndarray:
    if is_array(part) and part.ndim != 1:
        raise SelectionError(f"an index array of shape {part.shape}: use one dimension.")
    return index_array(numbers, part)


def batches(sizes: np.ndarray, *, most: int) -> list[slice]:
    """Cut groups into consecutive parts of at most `most` together, or of one group.

    Example:
        >>> batches(np.array([3, 3, 9, 1]), most=6)
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    parts: list[slice] = []
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        parts.append(slice(start, stop))
        start = stop
    return parts
