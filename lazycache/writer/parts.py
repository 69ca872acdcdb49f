"""What a batch is split into: one part per site and per table, the unit that a worker takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lazycache.types import SiteSpec


@dataclass(frozen=True, slots=True, eq=False)
class SitePart:
    """The rows of one site in one batch."""

    spec: SiteSpec
    """The site."""
    values: memoryview
    """Bytes of the rows: a view that keeps the batch's tensor alive."""
    index: Mapping[str, np.ndarray]
    """The index columns of its table, one entry per row."""
    rows: int
    """How many."""

    @property
    def table(self) -> str:
        """The table whose rows these are."""
        return self.spec.table

    @property
    def nbytes(self) -> int:
        """What it costs in the queue."""
        return self.values.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class TablePart:
    """The rows of one table in one batch."""

    table: str
    """`tokens` or `examples`."""
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
