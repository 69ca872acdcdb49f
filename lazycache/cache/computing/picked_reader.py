"""A reader of rows that each have units of their own, as paired index arrays pick them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lazycache.cache.computing.pairing import Pairs
from lazycache.cache.files.gather import empty, words_of
from lazycache.cache.reading.costs import Tally, summed
from lazycache.cache.reading.row_reader import WorkedOut
from lazycache.cache.reading.source import Source
from lazycache.cache.selecting import units as unit_selection
from lazycache.cache.selecting.examples import ExampleMap, build
from lazycache.cache.selecting.plan import Rows, as_array, blocks
from lazycache.cache.selecting.units import Units, places_of
from lazycache.cache.tables.row_origins import through
from lazycache.codec.dtypes import by_name
from lazycache.errors import SelectionError

LEAST_VALUES = 1 << 16
"""So many values are read at once, though few of them are wanted."""


class PickedReader(WorkedOut):
    """Rows 0, 1, 2, ..., each with units of its own.

    Read in blocks of all units that some rows need, so of each row no more than the block's: some
    hundred where each row has one of its own.
    """

    def __init__(self, source: Source, pairs: Pairs) -> None:
        shape = pairs.units.shape[1:]
        itemsize = by_name(source.spec.dtype).itemsize
        self.spec = replace(source.spec, shape=shape, row_bytes=itemsize * math.prod(shape))
        self._source = source
        self._pairs = pairs
        self._rows = pairs.rows.reshape(-1)
        self._number = pairs.number.reshape(-1)
        self._elements = pairs.units

    def remade(self) -> tuple[Any, ...]:
        """Return what makes a source of it where it is unpickled."""
        return picked, (self._source, self._pairs)

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Return for each row whether the site has it: bool[n]. Reads nothing."""
        return self._source.reader.covered(site, self._rows[rows])

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return first rows and stops of the longest runs of rows that the site has."""
        there = np.concatenate([[False], self.covered(site, np.arange(len(self._rows))), [False]])
        changes = np.flatnonzero(there[1:] != there[:-1])
        return changes[::2], changes[1::2]

    def read(self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()) -> torch.Tensor:
        """Return rows in the order given: [n, *units of the row], the caller's own copy.

        Raises:
            SelectionError: the site does not have one of the rows.
        """
        chosen, numbers = self._units(units), as_array(rows)
        out = empty((len(numbers), *chosen.shape), by_name(self.spec.dtype).torch)
        if out.numel():
            elements = self._elements.reshape(len(self._elements), -1)
            wanted = elements[self._number[numbers]][:, places_of(chosen)]
            stored = self._rows[numbers]
            target = words_of(out).reshape(wanted.shape)
            for piece in self._pieces(stored, wanted, np.argsort(stored)):
                reader, site = self._source.reader, self._source.spec.name
                words = words_of(reader.take(site, piece.rows, units=piece.units))
                target[piece.order] = words[piece.at_row.reshape(-1, 1), piece.at_unit]
        elif not self.covered(site, numbers).all():
            raise SelectionError(f"site {site!r} does not have some of these rows: see .covered.")
        return out

    def cost(
        self,
        site: str,
        rows: Rows,
        *,
        units: tuple[Any, ...] | Units = (),
        block_rows: int | None = None,
    ) -> Tally:
        """Return what `read` or `scan` would read. Reads nothing."""
        if block_rows is not None:
            cuts = blocks(len(rows), size=block_rows)
            return summed(self.cost(site, rows[start:stop], units=units) for start, stop in cuts)
        chosen, numbers = self._units(units), as_array(rows)
        if not len(numbers) or not chosen.count:
            return Tally()
        elements = self._elements.reshape(len(self._elements), -1)
        wanted = elements[self._number[numbers]][:, places_of(chosen)]
        stored = self._rows[numbers]
        reader, name = self._source.reader, self._source.spec.name
        pieces = self._pieces(stored, wanted, np.argsort(stored))
        return summed(reader.cost(name, one.rows, units=one.units) for one in pieces)

    def _pieces(
        self, stored: np.ndarray, wanted: np.ndarray, order: np.ndarray
    ) -> Iterator[_Piece]:
        """Yield what is read for units `wanted` of the rows `stored` whose numbers are `order`."""
        rows, at_row = np.unique(stored[order], return_inverse=True)
        units, at_unit = np.unique(wanted[order], return_inverse=True)
        if len(order) > 1 and len(rows) * len(units) > max(LEAST_VALUES, 8 * at_unit.size):
            half = len(order) // 2
            yield from self._pieces(stored, wanted, order[:half])
            yield from self._pieces(stored, wanted, order[half:])
            return
        spec = self._source.spec
        chosen = unit_selection.of_map(
            spec.shape, unit_selection.unit_map(spec.shape).reshape(-1)[units]
        )
        yield _Piece(order, rows, chosen, at_row, at_unit.reshape(len(order), -1))


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Some rows and the units that any of them needs, read together."""

    order: np.ndarray  # numbers of the picked rows
    rows: np.ndarray  # stored rows, ascending
    units: Units
    at_row: np.ndarray  # place in `rows` of each picked row
    at_unit: np.ndarray  # places in `units` of each picked row's


def picked(source: Source, pairs: Pairs) -> Source:
    """Return the source of rows with units of their own: row i is that of the i-th of the pairs."""
    reader = PickedReader(source, pairs)
    owners = Owners(source, pairs.rows.reshape(-1))
    return replace(
        source,
        reader=reader,
        spec=reader.spec,
        examples=owners,
        called=None,
        origins=through(source.origins, pairs.rows.reshape(-1)),
        reopen=None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """Gives the examples of picked rows: of each row the example of the row it is read from."""

    source: Source
    """Where rows are read."""
    rows: np.ndarray
    """int64[n]: absolute rows of the source."""

    def __call__(self) -> ExampleMap:
        """Return the examples, each with its picked rows in order."""
        known = self.source.examples()
        number, _ = known.places(self.rows)
        return build(_Picked(known.run[number], known.example[number]), covered=None)


class _Picked:
    """Rows one by one, as the runs of rows that a map is built from."""

    def __init__(self, run: np.ndarray, example: np.ndarray) -> None:
        self.run = run
        self.example = example
        self.start = np.arange(len(run))
        self.rows = np.ones(len(run), dtype=np.int64)
