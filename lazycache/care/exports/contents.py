"""What is exported: tables, their columns, sites, and their rows batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.reading.ragged_values import flat_values
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.spans import Spans, of_ranges
from lazycache.cache.tables.row_columns import table_of
from lazycache.cache.tables.row_origins import Origin
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.codec.dtypes import by_name
from lazycache.types import CALLS_OF, EXAMPLES, RAGGED, SiteSpec

BATCH_BYTES = 64 << 20
"""Most bytes of values that are in memory at once, as they are exported, or those of one row."""

BATCH_ROWS = 1 << 16
"""Most rows of a batch."""


@dataclass(frozen=True, eq=False)
class Exported:
    """A table of a dataset as it is exported. Without slots, for what is worked out once."""

    sites: StoredSites
    """The dataset, with the rows that are shown."""
    table: str
    """Its table."""
    names: Sequence[str]
    """The sites of the table that are exported."""

    @cached_property
    def rows(self) -> Rows:
        """The rows that are shown, in order."""
        every = np.array([self.sites.snapshot.rows(self.table)])
        if not every[0]:
            return range(0)
        shown = of_ranges(np.zeros(1, np.int64), every)
        restriction = self.sites.restriction
        return (shown if restriction is None else shown & restriction.rows(self.table)).rows()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Its columns: run, its own, then those that only its example has."""
        own = ["run", *self.sites.snapshot.columns(self.table)]
        beside = [] if self.table == EXAMPLES else self.sites.snapshot.columns(EXAMPLES)
        return tuple(dict.fromkeys([*own, *beside]))

    def spec(self, name: str) -> SiteSpec:
        """Return what a row of a site is."""
        return self.sites.sites[name]

    def covered(self, name: str) -> Rows:
        """Return the shown rows that a site has, in order."""
        there = of_ranges(*self.sites.reader.covered_spans(name))
        return (self._shown & there).rows()

    @property
    def _shown(self) -> Spans:
        rows = as_array(self.rows)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        stops = np.append(starts[1:], len(rows))
        return of_ranges(rows[starts], rows[stops - 1] + 1 if len(rows) else rows[:0])

    def batches(self) -> Iterator[np.ndarray]:
        """Yield the rows in pieces whose values of all sites fit in memory."""
        yield from pieces(self.rows, sum(map(self.row_bytes, self.names)))

    def row_bytes(self, name: str) -> int:
        """Return the bytes of a row as it is exported; of a ragged site on average."""
        spec = self.spec(name)
        size = by_name(spec.dtype)
        wider = size.widened.itemsize / size.itemsize
        if spec.layout == RAGGED:
            return int(wider * self.sites.stored_bytes(name) / max(1, self.sites.rows(name))) + 1
        return int(wider * spec.row_bytes)

    def table_columns(self, rows: np.ndarray) -> pa.Table:
        """Return the columns of some rows, in their order."""
        origin = Origin(self.sites, self.table, rows, slice(None))
        return table_of([origin], self.columns, count=len(rows))

    def values(self, name: str, rows: np.ndarray) -> torch.Tensor:
        """Return the values of rows that a site has; of a ragged site one behind the other."""
        x = self.sites.tensor(name)
        if isinstance(x, RaggedTensor):
            return flat_values(self.sites.reader, self.spec(name), rows)[0]
        return x.values_of(rows)

    def there(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return of each row whether a site has it: bool[n]."""
        return self.sites.reader.covered(name, rows)

    def elements(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return of rows that a ragged site has how many values each has: int64[n]."""
        spec = self.spec(name)
        others = abs(math.prod(spec.shape))
        if not len(rows):
            return np.empty(0, np.int64)
        return np.asarray(self.sites.reader.widths(name, rows), np.int64) * others


def pieces(rows: Rows, row_bytes: int) -> Iterator[np.ndarray]:
    """Cut rows into pieces that fit in memory."""
    size = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))
    for start in range(0, len(rows), size):
        yield as_array(rows[start : start + size])


def exported_tables(sites: StoredSites, names: Sequence[str]) -> list[Exported]:
    """Return the tables that are exported: those of the sites, and those of rows and examples."""
    by_table: Mapping[str, list[str]] = {
        table: [name for name in names if sites.sites[name].table == table]
        for table in sites.snapshot.tables
    }
    return [
        Exported(sites, table, mine)
        for table, mine in by_table.items()
        if mine or (table not in CALLS_OF.values() and sites.snapshot.rows(table))
    ]
