"""What is ready for a whole window of rows: columns, rows of far stores, a word to the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.feed.order import BLOCKS, ROWS, STORED, EpochOrder
from lazycache.feed.source import RowSource

if TYPE_CHECKING:
    from lazycache.cache.files.placed_rows import PlacedRows
    from lazycache.feed.columns import ColumnReader, Columns


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Rows `first` to `stop` of an epoch, which are permuted among each other."""

    first: int
    """Its first row."""
    stop: int
    """The row after its last."""
    positions: np.ndarray
    """int64[n]: its rows by position, as they are handed out."""
    columns: Columns | None = None
    """Their columns, in this order."""
    placed: list[PlacedRows] | None = None
    """Where they are in files of this machine, in this order, site by site."""
    values: list[torch.Tensor] | None = None
    """Rows that were far, of each site, as they are stored; with `ranks`."""
    ranks: np.ndarray | None = None
    """int64[n]: where each row is in `values`."""


def windows(
    source: RowSource,
    order: EpochOrder,
    columns: ColumnReader | None,
    *,
    kind: str,
    start: int,
) -> Iterator[Window]:
    """Yield the windows of an epoch from the one that row `start` is in.

    Cost: the order of the window, and its columns. Of near sites a few calls of the system besides;
    of far ones the window's bytes, each block once.
    """
    near = source.is_near
    row = start
    while row < order.rows:
        first, row = order.window(row)
        # first of all: the disk works while the rest is worked out
        ahead = near and kind != ROWS
        waits = source.read_ahead(*order.runs(first, row)) if ahead else []
        positions = order.positions(first, row)
        known = None if columns is None else columns.read(positions)
        if near or kind == ROWS:
            # in storage order rows are lent where they are
            placed = None if kind == STORED else source.placed(positions, scattered=kind == ROWS)
            if kind == BLOCKS:
                # any batch needs most blocks: the disk is not asked for the next ones before
                for wait in waits:
                    wait()
            yield Window(first, row, positions, known, placed)
            continue
        values, ranks = _read(source, positions)
        yield Window(first, row, positions, known, None, values, ranks)


def _read(source: RowSource, positions: np.ndarray) -> tuple[list[torch.Tensor], np.ndarray]:
    """Read rows of far stores; return them as they are stored, and where each of them is.

    Asked for in storage order they are the fewest requests, and nothing is copied to sort them.
    """
    ascending = np.argsort(positions, kind="stable")
    ranks = np.empty_like(positions)
    ranks[ascending] = np.arange(len(ranks))
    return source.values(positions[ascending]), ranks
