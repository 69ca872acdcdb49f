"""What a batch is split into: one part per site and per table, the unit that a worker takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lazycache.types import SiteSpec


@dataclass(frozen=True, slots=True)
class Place:
    """Rows that are there before their values."""

    covers: int
    """Version of the commit that added them."""
    row_start: int
    """The first of them, counted from the first row that this commit added to the table."""


@dataclass(frozen=True, slots=True, eq=False)
class SitePart:
    """The rows of one site in one batch."""

    spec: SiteSpec
    """The site."""
    values: memoryview
    """Bytes of the rows: a view that keeps the batch's tensor alive."""
    index: Mapping[str, np.ndarray]
    """The index columns of the site, one entry per row."""
    rows: int
    """How many."""
    starts: np.ndarray | None = None
    """Of a ragged site: int64[rows + 1], the byte at which each row begins, and the end."""
    place: Place | None = None
    """Where the rows are, if an earlier commit has added them; None: they come with this batch."""

    @property
    def table(self) -> str:
        """The table whose rows these are."""
        return self.spec.table

    def start(self, row: int) -> int:
        """Return the byte at which a row begins; of the row after the last, the end."""
        return row * self.spec.row_bytes if self.starts is None else int(self.starts[row])

    def fitting(self, row: int, *, rows: int, nbytes: int) -> int:
        """Return the row after the last of those from `row` on that fit; `row` if none does."""
        stop = min(self.rows, row + rows)
        if self.starts is None:
            return min(stop, row + nbytes // self.spec.row_bytes)
        last = np.searchsorted(self.starts, self.starts[row] + nbytes, side="right")
        return min(stop, int(last) - 1)

    @property
    def nbytes(self) -> int:
        """What it costs in the queue."""
        return self.values.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class TablePart:
    """The rows of one table in one batch."""

    table: str
    """The row space, one of `INDEX_COLUMNS`."""
    columns: Mapping[str, pa.Array]
    """Column name to values; columns that hold nothing but None are left out."""
    types: Mapping[str, str]
    """Column name to column type."""
    rows: int
    """How many."""

    @property
    def nbytes(self) -> int:
        """What it costs in the queue."""
        return sum(column.nbytes for column in self.columns.values())


Part = SitePart | TablePart
