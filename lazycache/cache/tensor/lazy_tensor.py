"""One site as a tensor that is read when it is used, and only where it is used.

Indexing composes a selection and reads nothing. `load`, `numpy`, iteration over `chunks` and the
aggregates read exactly the rows and units that are selected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from lazycache.cache.computing.expressions import converted
from lazycache.cache.computing.operators import RowOperators
from lazycache.cache.computing.pairing import in_two_steps, is_paired, paired
from lazycache.cache.computing.picked_reader import picked
from lazycache.cache.computing.torch_names import TorchNames
from lazycache.cache.files.gather import empty
from lazycache.cache.memory.calls import one_call
from lazycache.cache.memory.feeding import Feeding
from lazycache.cache.memory.lazy_base import LazyBase
from lazycache.cache.memory.loading import in_memory
from lazycache.cache.memory.loads import Loads
from lazycache.cache.reading.costs import Tally
from lazycache.cache.reading.source import Source, holds
from lazycache.cache.selecting.indexing import expand, index_array, is_array, normalise, split
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.selection import Dense, Grid, Lead
from lazycache.cache.selecting.units import Units, as_map, of_map, unit_map
from lazycache.cache.tables.row_queries import RowQueries
from lazycache.cache.tensor.reductions import Reductions
from lazycache.codec.dtypes import by_name
from lazycache.errors import SelectionError
from lazycache.late_bars import fed_late_bar, late_bar
from lazycache.progress import SILENT, Bar
from lazycache.types import EXAMPLES

CONVERTED_ROWS = 4096
"""Rows that are held in both dtypes at a time while values are converted."""

FEW_BYTES = 1 << 20
"""Reads below this have no bar: nobody asks how long they take, and a bar would cost a tenth."""


class LazyTensor(Loads, Feeding, Reductions, RowOperators, RowQueries, TorchNames, LazyBase):
    """A tensor of a dataset, not in memory: (examples, positions, *row), or (examples, *row).

    Index it as a torch tensor: integers, slices (their steps may be negative, as numpy's), `...`,
    None, index arrays and masks of any dimensions. Examples may differ in length (`lengths`); a
    position then counts inside each example, as Python counts: `x[:, -1]` is the last kept row of
    each, and `shape[1]` is the longest. The first dimension is the example in order of its id;
    `x.rows` are all rows in storage order. Rows that were not captured are missing, never zero:
    their examples have length 0.

    An index, an operator, `.map` and `.to` give a lazy tensor. A torch function, a numpy function
    or an aggregate over rows gives numbers, streamed or within a memory budget. As a dictionary key
    a lazy tensor is itself.

    Views are new values and cost no reading. A lazy tensor never changes; it may be shared between
    threads, and is pickled as an address and a selection, without values.
    """

    __slots__ = ("_lead", "_units")

    def __init__(
        self,
        source: Source,
        *,
        lead: Lead | None = None,
        units: np.ndarray | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(source, dtype, device)
        self._lead = lead
        self._units = units

    @property
    def units(self) -> np.ndarray | None:
        """Elements of a row that are selected, of `row_shape`; None for all. For this package."""
        return self._units

    @property
    def known_lead(self) -> Lead | None:
        """What is selected of examples and positions; None: all. For this package."""
        return self._lead

    @property
    def lead(self) -> Lead:
        """What is selected of examples and positions. For this package."""
        if self._lead is None:
            self._lead = self._source.everything()
        return self._lead

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of what is selected of each row."""
        return self._source.spec.shape if self._units is None else self._units.shape

    @property
    def shape(self) -> torch.Size:
        """Shape; positions are those of the longest example."""
        return torch.Size((*self.lead.shape, *self.row_shape))

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        return self.lead_ndim + len(self.row_shape)

    @property
    def lead_ndim(self) -> int:
        """How many of them are examples, positions, or rows. For this package."""
        if self._lead is None:
            return 1 if self._source.spec.table == EXAMPLES else 2
        return self._lead.ndim

    @property
    def nbytes(self) -> int:
        """Bytes of the selected values, padding not counted."""
        return self.lead.count * math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each example: int64[examples].

        Raises:
            SelectionError: there is no dimension of positions.
        """
        lead = self.lead
        if isinstance(lead, Grid):
            return lead.lengths().copy()
        if len(lead.shape) <= 1:
            raise SelectionError(f"{self!r} has no positions, so no lengths.")
        return np.full(lead.shape[0], lead.shape[1], dtype=np.int64)

    @property
    def is_ragged(self) -> bool:
        """Whether examples differ in length."""
        return isinstance(self.lead, Grid) and self.lead.is_ragged()

    @property
    def covered(self) -> np.ndarray:
        """Whether the site has the entries of the first dimension: bool[n]."""
        lead = self.lead
        if isinstance(lead, Grid):
            covered: np.ndarray = lead.lengths() > 0
            return covered
        rows = as_array(lead.rows)
        return self._source.reader.covered(self.site, rows)

    @property
    def rows(self) -> LazyTensor:
        """All selected rows in one dimension: (rows, *row).

        Of a whole site in storage order, where consecutive rows are read without a copy. Rows that
        were selected one by one stay in their order.
        """
        lead = self.lead
        rows = lead.stored() if isinstance(lead, Grid) else lead.flat()
        if isinstance(lead, Dense):
            rows = self._present(rows)
        return self._view(lead=Dense(rows))

    def _present(self, rows: Rows) -> Rows:
        # only of the examples table a selection can hold rows that the site does not have
        if self._source.spec.table != EXAMPLES:
            return rows
        there = self._source.reader.covered(self.site, as_array(rows))
        return rows if there.all() else as_array(rows)[there]

    def call(self, number: int) -> LazyTensor:
        """Return the rows of one call of a module that a forward pass calls several times.

        Of a site of a table of calls, whose examples have the rows of their first call, then those
        of the second and so on: (examples, positions, *row) of call `number`, counted from 0, or
        from the last call of each example if it is negative. Examples with fewer calls have no rows
        in it. Select examples, positions and units afterwards.

        Cost: reads nothing.

        Raises:
            SelectionError: the site is not of such a table, or rows were selected before.

        Example:
            >>> import tempfile, torch, lazycache as lc
            >>> layer, url = torch.nn.Linear(2, 2), tempfile.mkdtemp()
            >>> model = torch.nn.Sequential(layer, layer)
            >>> with lc.capture(model, url, "0:out@*"):
            ...     _ = model(torch.ones(3, 2))
            >>> lc.open(url)["0:out@*"].call(-1).shape
            torch.Size([3, 1, 2])
        """
        return self._view(lead=one_call(self._source, self._lead, number))

    def __getitem__(self, index: Any) -> LazyTensor:
        """Select, by torch's rules. Reads nothing, but a mask that is lazy itself.

        Raises:
            SelectionError: the index does not fit, or leaves what is not dense.
            MemoryBudgetError: a lazy index is larger than the budget.
        """
        parts = expand(normalise(in_memory(index)), self.ndim)
        cut = split(parts, self.lead_ndim)
        if cut is None or is_paired(*cut):
            return self._paired(parts)
        leading, units = cut
        lead = self.lead.index(leading) if _selects(leading) else self.lead
        chosen = self._units
        if _selects(units):
            chosen = index_array(self._unit_map, units)
        return self._view(lead=lead, units=chosen)

    def _paired(self, parts: tuple[Any, ...]) -> LazyTensor:
        """Return rows that have units of their own: the rows of a new source."""
        steps = in_two_steps(parts)
        if steps is not None:
            return self[steps[0]][steps[1]]
        pairs = paired(self.lead, self._unit_map, parts, self.shape)
        rows = np.arange(pairs.rows.size).reshape(pairs.rows.shape)
        source = picked(self._source, pairs)
        return LazyTensor(source, lead=Dense(rows), dtype=self._dtype, device=self._device)

    @property
    def _unit_map(self) -> np.ndarray:
        return unit_map(self._source.spec.shape) if self._units is None else self._units

    def _view(self, *, lead: Lead, units: np.ndarray | None = None) -> LazyTensor:
        kept = self._units if units is None else units
        return LazyTensor(
            self._source, lead=lead, units=kept, dtype=self._dtype, device=self._device
        )

    def __len__(self) -> int:
        if not self.ndim:
            raise SelectionError("a single value has no length: .load().item() is the number.")
        return self.shape[0]

    def __iter__(self) -> Iterator[LazyTensor]:
        """Yield the entries of the first dimension, lazy themselves: examples, or rows."""
        length = len(self)
        if not self.lead_ndim:
            return (self[i] for i in range(length))
        return (self._view(lead=entry) for entry in self.lead.entries())

    def _extent(self) -> tuple[list[str], int | None]:
        shape = list(map(str, self.shape))
        if self.is_ragged:
            shape[1] = f"≤{shape[1]}"
        return shape, self.nbytes

    def _read_as(self, dtype: torch.dtype | None, device: torch.device | None) -> LazyTensor:
        mine = self._dtype
        if mine is not None and dtype is not None and dtype != mine:
            stored = by_name(self._source.spec.dtype).torch
            if not holds(mine, stored):
                # as in torch: what the one dtype has rounded, another one does not bring back
                return converted(self, dtype)._read_as(None, device)  # noqa: SLF001  # own class
        return LazyTensor(
            self._source, lead=self._lead, units=self._units, dtype=dtype, device=device
        )

    def _selected(self) -> dict[str, Any]:
        lead = self._lead
        units = None if self._units is None else self._chosen()
        if not isinstance(lead, Grid):
            return {"lead": lead, "units": units}
        # the examples of the source are there where the dataset is opened
        examples = None if lead.map is self._source.examples() else lead.map
        return {"grid": (examples, lead.examples, lead.window), "units": units}

    @classmethod
    def _restored(cls, source: Source, selected: dict[str, Any]) -> LazyTensor:
        lead, units = selected.get("lead"), selected["units"]
        if "grid" in selected:
            examples, numbers, window = selected["grid"]
            lead = Grid(source.examples() if examples is None else examples, numbers, window)
        chosen = None if units is None else as_map(source.spec.shape, units)
        return cls(source, lead=lead, units=chosen)

    def values_of(self, rows: Rows) -> torch.Tensor:
        """Read absolute rows with this tensor's units, dtype and device: [n, *row_shape].

        For this package, as `scan`.
        """
        with self._bar(rows, fed=True):
            values = self._read(rows)
        return values if self._device is None else values.to(self._device)

    def _read(self, rows: Rows) -> torch.Tensor:
        if self.dtype == by_name(self._source.spec.dtype).torch:
            values = self._source.reader.read(self.site, rows, units=self._chosen())
        else:
            values = empty((len(rows), *self.row_shape), self.dtype)
            done = 0
            for block in self._source.reader.scan(
                self.site, rows, units=self._chosen(), block_rows=CONVERTED_ROWS
            ):
                values[done : done + len(block)].copy_(block)
                done += len(block)
                fed_late_bar().advance(block.nbytes)
        return values

    def _bar(self, rows: Rows, *, fed: bool) -> AbstractContextManager[Bar]:
        """Give the bar of a read that may take long; of the bytes that are handed out."""
        nbytes = len(rows) * math.prod(self.row_shape) * self.dtype.itemsize
        if nbytes < FEW_BYTES:
            return nullcontext(SILENT)
        return late_bar(f"reading {self.site}", total=nbytes, fed=fed)

    def cost_of(self, rows: Rows, *, block_rows: int | None = None) -> Tally:
        """Return what `values_of` would read, or with `block_rows` what `scan` would.

        For this package. Reads nothing.
        """
        if block_rows is None and self.dtype != by_name(self._source.spec.dtype).torch:
            block_rows = CONVERTED_ROWS
        reader, chosen = self._source.reader, self._chosen()
        return reader.cost(self.site, rows, units=chosen, block_rows=block_rows)

    def scan(self, rows: Rows, *, block_rows: int) -> Iterator[torch.Tensor]:
        """Yield rows in blocks to be read and dropped: they may be the file. For this package."""
        reader = self._source.reader
        with self._bar(rows, fed=False) as bar:
            for block in reader.scan(self.site, rows, units=self._chosen(), block_rows=block_rows):
                yield block.to(device=self.device, dtype=self.dtype)
                bar.advance(block.nbytes)

    def _chosen(self) -> Units:
        return of_map(self._source.spec.shape, self._units)


def _selects(parts: tuple[Any, ...]) -> bool:
    return any(is_array(part) or part != slice(None) for part in parts)
