"""Rows of several tensors one behind the other: each is read where it is, nothing is copied.

Rows of a part keep their order and their distances, moved behind those of the part before, so that
rows which follow each other in a file do so here, and a range inside one part is read without a
copy if the part's own reader can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.computing.operands import WORDS, RowsOf
from lazycache.cache.files.gather import empty
from lazycache.cache.joined.joined_rows import JoinedRows, part_of_lead
from lazycache.cache.joined.joined_statistics import JoinedStatistics, of_parts
from lazycache.cache.reading.costs import Tally, summed
from lazycache.cache.reading.row_reader import WorkedOut
from lazycache.cache.selecting.examples import ExampleMap, one_row_each
from lazycache.cache.selecting.plan import Rows, as_array, blocks
from lazycache.cache.selecting.units import Units, all_units
from lazycache.codec.dtypes import by_name
from lazycache.types import SiteSpec

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


class JoinedReader(WorkedOut):
    """Rows of tensors of one dtype, device and row shape. Thread-safe, as their readers are."""

    def __init__(self, parts: Sequence[LazyTensor], spec: SiteSpec) -> None:
        self.parts = tuple(parts)
        """The tensors."""
        self.spec = spec
        """What a row is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedReader, (self.parts, self.spec)

    @cached_property
    def rows(self) -> JoinedRows:
        """How rows are numbered; worked out when first asked for."""
        return JoinedRows([part_of_lead(x.lead) for x in self.parts])

    def examples(self) -> ExampleMap:
        """Return the examples of all parts; of parts without positions, one for each row."""
        return self._examples

    @cached_property
    def _examples(self) -> ExampleMap:
        if any(part.map is None for part in self.rows.parts):
            return one_row_each(self.rows.total)
        return self.rows.examples()

    def statistics(self, site: str) -> JoinedStatistics | None:  # noqa: ARG002  # one site
        """Return what is stored of the rows of the parts beside them; None if there is nothing."""
        return self._statistics

    @cached_property
    def _statistics(self) -> JoinedStatistics | None:
        return of_parts(self.parts, self.rows)

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:  # noqa: ARG002  # one site
        """Return for each row whether there is one: bool[n]. Reads nothing."""
        there = np.zeros(np.shape(rows), dtype=np.bool_)
        for number, members, mine in self.rows.split(np.asarray(rows, dtype=np.int64)):
            x = self.parts[number]
            there[members] = x.source.reader.covered(x.site, as_array(mine))
        return there

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return first rows and stops of the runs of rows that there are."""
        total = self.rows.total
        there = np.concatenate([[False], self.covered(site, np.arange(total)), [False]])
        changes = np.flatnonzero(there[1:] != there[:-1])
        return changes[::2], changes[1::2]

    def read(self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()) -> torch.Tensor:
        """Return rows: [n, *units], the caller's own.

        Cost: as the parts' own readers; of rows of several parts one copy more.
        """
        del site
        chosen = self._units(units)
        pieces = list(self.rows.split(rows))
        if len(pieces) == 1:
            number, _, mine = pieces[0]
            return self._part(number, mine, chosen)
        dtype, device = by_name(self.spec.dtype).torch, self.parts[0].device
        shape = (len(rows), *chosen.shape)
        if device.type == "cpu":
            out = empty(shape, dtype)
        else:
            out = torch.empty(shape, dtype=dtype, device=device)
        words = out.view(WORDS[dtype.itemsize])
        for number, members, mine in pieces:
            values = self._part(number, mine, chosen).view(words.dtype)
            at = members if isinstance(members, slice) else torch.from_numpy(members).to(device)
            words[at] = values
        return out

    def scan(
        self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = (), block_rows: int
    ) -> Iterator[torch.Tensor]:
        """Yield rows in order, in blocks to be read and dropped; as the parts' own readers."""
        chosen = self._units(units)
        # only of ascending neighbours do the parts come in the order of the rows
        if not isinstance(rows, range) or rows.step != 1:
            for start, stop in blocks(len(rows), size=block_rows):
                yield self.read(site, rows[start:stop], units=chosen)
            return
        for number, _, mine in self.rows.split(rows):
            part = RowsOf(self.parts[number])
            yield from part.scan(mine, self._narrow(chosen), block_rows=block_rows)

    def cost(
        self,
        site: str,
        rows: Rows,
        *,
        units: tuple[Any, ...] | Units = (),
        block_rows: int | None = None,
    ) -> Tally:
        """Return what the parts' own readers would read. Reads nothing."""
        chosen = self._units(units)
        if block_rows is not None and not (isinstance(rows, range) and rows.step == 1):
            cuts = blocks(len(rows), size=block_rows)
            return summed(self.cost(site, rows[start:stop], units=chosen) for start, stop in cuts)
        return summed(
            self._part_cost(number, mine, self._narrow(chosen), block_rows)
            for number, _, mine in self.rows.split(rows)
        )

    def _part_cost(
        self, number: int, rows: Rows, units: Units | None, block_rows: int | None
    ) -> Tally:
        part = RowsOf(self.parts[number])
        if block_rows is not None:
            return part.scan_cost(rows, units, block_rows=block_rows)
        return part.own_cost(rows, units)

    def _part(self, number: int, rows: Rows, units: Units) -> torch.Tensor:
        return RowsOf(self.parts[number]).own(rows, self._narrow(units))

    def _narrow(self, units: Units) -> Units | None:
        return None if units is all_units(self.spec.shape) else units
