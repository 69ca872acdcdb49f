"""One call of a module that is called several times in a forward pass. Pure."""

from __future__ import annotations

import numpy as np

from lazycache.cache.reading.source import Source
from lazycache.cache.selecting.examples import ExampleMap, part_of
from lazycache.cache.selecting.indexing import normalise
from lazycache.cache.selecting.selection import Grid, Lead
from lazycache.errors import SelectionError


def one_call(source: Source, lead: Lead | None, number: int) -> Grid:
    """Return the rows of a call of each example, of all that `lead` selects.

    An example has as many rows in each call as in the table whose rows were called.

    Raises:
        SelectionError: there are no calls, not everything is selected, or `number` is no integer.
    """
    name = source.spec.name
    if source.called is None:
        raise SelectionError(
            f"site {name!r} has one call: .call() is for sites of calls, example_calls and "
            f"decoder_calls; this one is of {source.spec.table}."
        )
    examples = source.examples()
    chosen = source.everything() if lead is None else lead
    if not isinstance(chosen, Grid) or not chosen.is_whole or chosen.map is not examples:
        raise SelectionError(f"take the call first, cache[{name!r}].call({number})[examples].")
    (wanted,) = normalise(number)
    if not isinstance(wanted, int):
        raise SelectionError(f"{number!r} is no number of a call.")
    rows = _rows_per_call(examples, source.called())
    if (examples.lengths % np.maximum(rows, 1)).any():
        raise SelectionError(
            f"site {name!r} has examples whose rows are not whole calls: ask for those of one call "
            f"in SQL, by the column `call` of {source.spec.table}."
        )
    calls = examples.lengths // np.maximum(rows, 1)
    call = wanted if wanted >= 0 else calls + wanted
    there = (call >= 0) & (call < calls)
    part = part_of(examples, np.where(there, rows * call, 0), np.where(there, rows, 0))
    return Grid(part, range(len(part)))


def _rows_per_call(examples: ExampleMap, called: ExampleMap) -> np.ndarray:
    """Return for each example how many rows it has in the table whose rows were called."""
    if np.array_equal(examples.run, called.run) and np.array_equal(
        examples.example, called.example
    ):
        return called.lengths
    pairs = np.concatenate([np.stack([one.run, one.example], axis=1) for one in (examples, called)])
    number = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    found = np.zeros(len(pairs), dtype=np.int64)
    found[number[len(examples) :]] = called.lengths
    rows: np.ndarray = found[number[: len(examples)]]
    return rows
