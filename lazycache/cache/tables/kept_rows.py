"""A selection without some of its rows: examples stay examples, positions count what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lazycache.cache.selecting.examples import ExampleMap
from lazycache.cache.selecting.plan import Rows, as_array, as_range
from lazycache.cache.selecting.ragged_selection import ExampleGroups, RaggedSelection, RowGroups
from lazycache.cache.selecting.selection import Dense, Grid, Lead
from lazycache.errors import SelectionError

Keep = Callable[[np.ndarray], np.ndarray]
"""Says of absolute rows which are kept: bool[n]."""

BLOCK_ROWS = 1 << 20
"""Rows that are looked at at once."""


def of_lead(lead: Lead, keep: Keep) -> Lead:
    """Return the rows of a lead that are kept; examples of which none is left are gone.

    Rows that were not in examples by positions are one after the other.
    """
    if isinstance(lead, Dense):
        rows = as_array(lead.flat())
        return Dense(_ranged(rows[keep(rows)]))
    chosen = lead.examples
    numbers, places = (chosen, None) if isinstance(chosen, range) else _distinct(chosen)
    found, counts = _of_examples(replace(lead, examples=numbers), keep)
    examples = Grid(found, range(len(found)))
    if places is None:
        return examples
    # a map has each row once: an example that was chosen twice is one of it, chosen twice
    left = counts > 0
    return replace(examples, examples=(np.cumsum(left) - 1)[places[left[places]]])


def _distinct(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return numbers once each, and the place of each among these; None where all are distinct."""
    once, places = np.unique(numbers, return_inverse=True)
    return (once, places) if len(once) < len(numbers) else (numbers, None)


def _of_examples(lead: Grid, keep: Keep) -> tuple[ExampleMap, np.ndarray]:
    """Return the map of the kept rows of examples, and how many each of them has."""
    run, example = (ids[as_array(lead.examples)] for ids in (lead.map.run, lead.map.example))
    counts, starts, sizes = [], [], []
    for part in lead.blocks(rows=BLOCK_ROWS):
        rows = as_array(part.flat())
        mask = keep(rows)
        before = np.searchsorted(np.flatnonzero(mask), np.cumsum(part.lengths()))
        counts.append(np.diff(before, prepend=0))
        first, size = _segments(rows[mask])
        starts.append(first)
        sizes.append(size)
    kept = _joined(counts)
    return _map(run, example, kept, _joined(starts), _joined(sizes)), kept


def of_ragged(selection: RaggedSelection, keep: Keep) -> RaggedSelection:
    """Return the queries of a selection that are kept; examples of which none is left are gone.

    Raises:
        SelectionError: keys were selected, which are those of all rows of an example.
    """
    if not selection.keys.is_whole:
        raise SelectionError("keys were selected of the examples: choose rows first, then keys.")
    rows = selection.rows
    mask = keep(rows)
    if isinstance(selection.groups, RowGroups):
        groups = RowGroups(_ranged(rows[mask]))
        return replace(selection, groups=groups, examples=np.arange(len(groups)))
    assert isinstance(selection.groups, ExampleGroups)
    known, numbers = selection.groups.map, selection.numbers
    owner = np.repeat(np.arange(len(numbers)), selection.lengths)
    counts = np.bincount(owner[mask], minlength=len(numbers))
    chosen = _map(known.run[numbers], known.example[numbers], counts, *_segments(rows[mask]))
    places = np.arange(len(chosen))
    if not selection.examples.ndim:
        if not len(chosen):
            raise SelectionError("no row of the example is left: select examples after .where().")
        places = places[0]
    # a query that was taken of each example is the only one that may be left of it
    queries = replace(selection.queries, windows=(), places=None)
    if selection.queries.removed:
        queries = replace(queries, places=np.zeros((), dtype=np.int64))
    return replace(selection, groups=ExampleGroups(chosen), examples=places, queries=queries)


def by_row(selection: RaggedSelection, rows: Rows) -> RaggedSelection:
    """Return rows one by one, each with its own keys.

    Raises:
        SelectionError: keys were selected, which are those of all rows of an example.
    """
    return replace(selection.by_row(), groups=RowGroups(rows), examples=np.arange(len(rows)))


def _map(
    run: np.ndarray, example: np.ndarray, counts: np.ndarray, starts: np.ndarray, sizes: np.ndarray
) -> ExampleMap:
    """Return the map of segments of rows, of examples with `counts` of them."""
    left = counts > 0
    lengths = counts[left]
    return ExampleMap(
        run=run[left],
        example=example[left],
        lengths=lengths,
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]),
        logical=np.cumsum(sizes) - sizes,
        stored=starts,
        longest=int(lengths.max(initial=0)),
    )


def _segments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first rows and sizes of the runs of consecutive rows."""
    new = np.ones(len(rows), dtype=np.bool_)
    new[1:] = rows[1:] != rows[:-1] + 1
    at = np.flatnonzero(new)
    return rows[at], np.diff(np.append(at, len(rows)))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _ranged(rows: np.ndarray) -> Rows:
    found = as_range(rows)
    return rows if found is None else found
