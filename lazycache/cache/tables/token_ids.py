"""The ids of tokens as a lazy tensor, `cache["input_ids"]`: read from the table, by way of SQL."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lazycache.cache.reading.row_reader import WorkedOut
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.units import Units
from lazycache.cache.tables import row_columns
from lazycache.cache.tables.row_origins import Asked, Origin
from lazycache.errors import SelectionError
from lazycache.types import TOKENS, SiteSpec

INPUT_IDS = "input_ids"
"""Name of the tensor."""

TOKEN_ID = "token_id"  # noqa: S105  # no password
"""Column of the table."""

SPEC = SiteSpec(INPUT_IDS, TOKENS, "int64", (), 8)
"""What a row of it is."""


class TokenIdReader(WorkedOut):
    """Rows of a column of whole numbers of `tokens`."""

    spec = SPEC

    def __init__(self, tables: Asked) -> None:
        self._tables = tables

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:  # noqa: ARG002  # one column
        """Return for each row whether there is one: bool[n]."""
        there: np.ndarray = (rows >= 0) & (rows < self._rows)
        return there

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002  # one column
        """Return the first row and the row after the last."""
        return np.zeros(1, dtype=np.int64), np.array([self._rows], dtype=np.int64)

    def read(self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()) -> torch.Tensor:
        """Return the ids of rows: int64[n].

        Raises:
            SelectionError: a row was stored without its id.
        """
        del site, units  # a number has none
        numbers = as_array(rows)
        origin = Origin(self._tables, TOKENS, numbers, slice(None))
        column = row_columns.table_of([origin], [TOKEN_ID], count=len(numbers)).column(0)
        if column.null_count:
            raise SelectionError(
                f"{column.null_count:,} of {len(numbers):,} tokens were stored without their ids: "
                'choose others, cache["input_ids"].where("token_id IS NOT NULL").'
            )
        return torch.from_numpy(column.to_numpy().astype(np.int64))

    @property
    def _rows(self) -> int:
        return self._tables.snapshot.rows(TOKENS)
