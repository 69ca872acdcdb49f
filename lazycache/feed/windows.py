"""What is ready for a whole window of rows: columns, rows of far stores, a word to the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.feed.order import ROWS, STORED, EpochOrder
from lazycache.feed.source import RowSource

if TYPE_CHECKING:
    from lazycache.feed.columns import ColumnReader, Columns


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Rows `first` to `stop` of an epoch, which are permuted among each other."""

    first: int
    """Its first row."""
    stop: int
    """The row after its last."""
    ranks: np.ndarray | None = None
    """int64[n]: where each member is in `values` and `columns`; None: at its own place."""
    values: list[torch.Tensor] | None = None
    """The members' rows of each site; None: they are read where they are."""
    columns: Columns | None = None
    """The members' columns."""

    def members(self, places: np.ndarray) -> np.ndarray:
        """Return where the members at places are in `values` and `columns`."""
        return places if self.ranks is None else self.ranks.take(places)


def windows(
    source: RowSource,
    order: EpochOrder,
    columns: ColumnReader | None,
    *,
    kind: str,
    start: int,
) -> Iterator[Window]:
    """Yield the windows of an epoch from the one that row `start` is in.

    Cost: of near sites a few calls of the system, or nothing; of far ones the window's bytes, each
    block once; and its columns.
    """
    near = source.is_near
    row = start
    while row < order.rows:
        first, row = order.window(row)
        if near and kind != ROWS:
            source.read_ahead(*order.runs(first, row))
        if columns is None and (near or kind == ROWS):
            yield Window(first, row)
            continue
        yield _read(source, order, columns, first, row, far=not near, sort=kind != STORED)


def _read(
    source: RowSource,
    order: EpochOrder,
    columns: ColumnReader | None,
    first: int,
    stop: int,
    *,
    far: bool,
    sort: bool,
) -> Window:
    members, ranks = order.members(first, stop), None
    if sort:
        # asked for in the order in which they are stored: fewest requests, and no copy to sort them
        ascending = np.argsort(members, kind="stable")
        members, ranks = members[ascending], np.empty_like(members)
        ranks[ascending] = np.arange(len(ranks))
    return Window(
        first,
        stop,
        ranks,
        source.values(members) if far else None,
        None if columns is None else columns.read(members),
    )
