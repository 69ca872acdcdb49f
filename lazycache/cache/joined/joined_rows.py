"""How the rows of joined tensors are numbered, and which examples they belong to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lazycache.cache.computing.operands import rows_at
from lazycache.cache.computing.row_spaces import numbered
from lazycache.cache.selecting.examples import ExampleMap, of_lengths
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.selection import Dense, Grid, Lead


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The rows of one tensor, numbered from 0."""

    map: ExampleMap | None
    """The examples over these numbers; None where there are no positions."""
    extent: int
    """The number after the last; there may be holes."""
    first: int
    """The tensor's own number of row 0, where the others follow by the same distance."""
    rows: Rows | None
    """Else the tensor's own number of each."""

    def own(self, numbers: Rows) -> Rows:
        """Return the tensor's own numbers of rows; a range of a range, if it can be."""
        if self.rows is not None:
            return rows_at(self.rows, numbers)
        if isinstance(numbers, range):
            return range(numbers.start + self.first, numbers.stop + self.first, numbers.step)
        moved: np.ndarray = numbers + self.first
        return moved


def part_of_lead(lead: Lead) -> Part:
    """Return the rows that a tensor selects, as a part.

    Cost: what there are of examples; of rows that were selected one by one, their number.
    """
    if isinstance(lead, Grid) and lead.is_whole and len(lead.map.stored):
        return _whole(lead.map)
    anew = numbered(lead)
    flat = lead.flat()
    found = _map(anew.lead)
    if isinstance(flat, range) and flat.step == 1 and anew.order is None:
        return Part(found, len(flat), flat.start, None)
    return Part(found, lead.count, 0, anew.of(flat))


def _whole(examples: ExampleMap) -> Part:
    sizes = np.diff(np.append(examples.logical, examples.total))
    low, high = int(examples.stored.min()), int((examples.stored + sizes).max())
    return Part(moved(examples, rows=-low), high - low, low, None)


def _map(lead: Lead) -> ExampleMap | None:
    if isinstance(lead, Grid):
        return lead.map if lead.is_whole else _cut(lead)
    if lead.ndim != _POSITIONS:
        return None
    examples, positions = lead.shape
    return of_lengths(np.full(examples, positions, dtype=np.int64))


def _cut(lead: Grid) -> ExampleMap:
    """Return the map of some examples whose rows are numbered 0, 1, 2, ... already."""
    chosen = as_array(lead.examples)
    found = of_lengths(lead.lengths(), run=lead.map.run[chosen], example=lead.map.example[chosen])
    # of no examples, too
    return replace(found, longest=lead.shape[1])


_POSITIONS = 2
"""Dimensions of examples by positions."""


def moved(examples: ExampleMap, *, rows: int) -> ExampleMap:
    """Return a map whose rows are stored `rows` later."""
    return ExampleMap(
        examples.run,
        examples.example,
        examples.lengths,
        examples.offsets,
        examples.logical,
        examples.stored + rows,
        examples.longest,
    )


class JoinedRows:
    """Parts one behind the other: rows of each begin where those of the part before end."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        """The parts."""
        extents = np.array([part.extent for part in parts], dtype=np.int64)
        self.starts: np.ndarray = np.cumsum(extents) - extents
        """int64[parts]: first row of each."""
        self.total = int(extents.sum())
        """The row after the last."""

    def split(self, rows: Rows) -> Iterator[tuple[int, slice | np.ndarray, Rows]]:
        """Yield parts, which of the rows are theirs, and their own numbers of these.

        Of a range in its order; of others each part once.
        """
        if isinstance(rows, range) and rows.step == 1:
            yield from self._split_range(rows)
            return
        numbers = as_array(rows)
        owner = np.searchsorted(self.starts, numbers, side="right") - 1
        for part in np.unique(owner).tolist():
            members = np.flatnonzero(owner == part)
            alone = len(members) == len(numbers)
            at = slice(None) if alone else members
            yield part, at, self.parts[part].own(numbers[at] - self.starts[part])

    def _split_range(self, rows: range) -> Iterator[tuple[int, slice | np.ndarray, Rows]]:
        stop = max(rows.start, rows.stop)
        number = max(0, int(np.searchsorted(self.starts, rows.start, side="right")) - 1)
        for part in range(number, len(self.parts)):
            begin = int(self.starts[part])
            low, high = max(rows.start, begin), min(stop, begin + self.parts[part].extent)
            if begin >= stop and part > number:
                break
            # of no rows one part is asked, which knows the shape
            if low < high or (stop == rows.start and part == number):
                own = self.parts[part].own(range(low - begin, max(low, high) - begin))
                yield part, slice(low - rows.start, max(low, high) - rows.start), own

    def examples(self) -> ExampleMap:
        """Return the examples of all parts, in order; runs are numbered apart for each part."""
        maps = [part.map for part in self.parts if part.map is not None]
        return joined_maps(maps, self.starts, runs=run_shifts(maps))


def run_shifts(maps: Sequence[ExampleMap]) -> np.ndarray:
    """Return what is added to the number of a run in each map, so that no two are the same."""
    counts = np.array([int(one.run.max(initial=-1)) + 1 for one in maps], dtype=np.int64)
    shifts: np.ndarray = np.cumsum(counts) - counts
    return shifts


def joined_maps(maps: Sequence[ExampleMap], starts: np.ndarray, *, runs: np.ndarray) -> ExampleMap:
    """Return one map of the examples of several, whose rows begin at `starts`."""
    totals = np.array([one.total for one in maps], dtype=np.int64)
    before = np.cumsum(totals) - totals
    logical = [one.logical + b for one, b in zip(maps, before, strict=True)]
    stored = [one.stored + s for one, s in zip(maps, starts, strict=True)]
    found = of_lengths(
        np.concatenate([one.lengths for one in maps]),
        run=np.concatenate([one.run + r for one, r in zip(maps, runs, strict=True)]),
        example=np.concatenate([one.example for one in maps]),
    )
    segments = _merged(np.concatenate(logical), np.concatenate(stored), found.total)
    return ExampleMap(
        found.run,
        found.example,
        found.lengths,
        found.offsets,
        *segments,
        # of no examples, torch keeps the size of the other dimensions
        found.longest if len(found) else max((one.longest for one in maps), default=0),
    )


def _merged(logical: np.ndarray, stored: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge runs of rows that follow each other as stored, too."""
    sizes = np.diff(np.append(logical, total))
    new = np.ones(len(logical), dtype=np.bool_)
    new[1:] = stored[1:] != stored[:-1] + sizes[:-1]
    return logical[new], stored[new]


def dense_lead(shapes: Sequence[tuple[int, ...]], total: int) -> Dense:
    """Return the rows of parts without examples: one dimension, or as many as they have."""
    if len(shapes[0]) == 1:
        return Dense(range(total))
    lead = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return Dense(np.arange(total, dtype=np.int64).reshape(lead))
