"""Which of the rows that are selected are whole blocks of stored statistics, and which are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.aggregates.row_stream import RowStream, distinct, row_parts
from lazycache.cache.reading.known import Known
from lazycache.cache.reading.site_statistics import SiteStatistics
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.codec.dtypes import by_name

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


@dataclass(frozen=True, slots=True, eq=False)
class Covering:
    """Blocks of which every row is selected once, and the rows of the selection beside them."""

    stream: RowStream
    """The selection."""
    statistics: SiteStatistics
    """What is stored of its site."""
    whole: np.ndarray
    """bool[blocks]: which blocks are selected."""

    def known(self) -> Iterator[Known]:
        """Yield the numbers of the blocks, shard by shard, unit by unit of the stream."""
        units = unit_numbers(self.stream.x)
        for known in self.statistics.known(self.whole, units):
            yield _arranged(known, self.stream)

    def rest(self) -> Iterator[Rows]:
        """Yield the other rows, in the order of the selection."""
        found = self.statistics
        for rows in row_parts(self.stream.x):
            if isinstance(rows, range) and abs(rows.step) == 1:
                yield from _gaps(rows, found.starts[self.whole], found.stops[self.whole])
                continue
            numbers = as_array(rows)
            left = numbers[~self._inside(numbers)]
            if len(left):
                yield left

    def only(self, blocks: np.ndarray) -> Covering:
        """Return the covering by some of the blocks: bool[blocks]."""
        return replace(self, whole=self.whole & blocks)

    def none(self) -> np.ndarray:
        """Return bool[blocks], none of them."""
        return np.zeros_like(self.whole)

    def within(self, start: int, stop: int) -> np.ndarray:
        """Return which blocks are among the rows from `start` to `stop`: bool[blocks]."""
        inside: np.ndarray = (self.statistics.starts >= start) & (self.statistics.stops <= stop)
        return inside

    def count(self, blocks: np.ndarray) -> int:
        """Return how many rows some blocks have."""
        return int((self.statistics.stops - self.statistics.starts)[blocks].sum())

    def _inside(self, rows: np.ndarray) -> np.ndarray:
        block, there = _blocks_of(self.statistics, rows)
        there[there] = self.whole[block[there]]
        return there


def covering(stream: RowStream) -> Covering | None:
    """Return which blocks cover a stream; None if nothing is known of any of its rows.

    Cost: reads nothing. A look at each row number, where these are no range.
    """
    found = statistics_of(stream.x)
    if found is None or not stream.by_rows or not len(found.starts):
        return None
    sizes = found.stops - found.starts
    x = stream.x
    if 0 in x.row_shape or x.lead.count < int(sizes.min()) or not distinct(x.lead):
        return None
    counts = np.zeros(len(sizes), dtype=np.int64)
    for rows in row_parts(stream.x):
        counts += _counted(found, rows)
    whole = counts == sizes
    return Covering(stream, found, whole) if whole.any() else None


def statistics_of(x: LazyTensor) -> SiteStatistics | None:
    """Return what is stored of the site of `x`, if it is read as it is stored."""
    source = x.source
    if x.dtype != by_name(source.spec.dtype).torch:
        return None
    # readers of what is worked out have none
    ask = getattr(source.reader, "statistics", None)
    found: SiteStatistics | None = None if ask is None else ask(x.site)
    return found


def unit_numbers(x: LazyTensor) -> torch.Tensor | None:
    """Return which units of a row are selected, flattened: int64[units]; None for all."""
    chosen = x.units
    return None if chosen is None else torch.from_numpy(np.array(chosen).reshape(-1))


def _counted(found: SiteStatistics, rows: Rows) -> np.ndarray:
    """Return how many of the rows are in each block: int64[blocks]."""
    if isinstance(rows, range) and abs(rows.step) == 1:
        if not len(rows):
            return np.zeros(len(found.starts), dtype=np.int64)
        first, last = sorted((rows[0], rows[-1]))
        overlap: np.ndarray = np.minimum(found.stops, last + 1) - np.maximum(found.starts, first)
        return overlap.clip(min=0)
    block, there = _blocks_of(found, as_array(rows))
    return np.bincount(block[there], minlength=len(found.starts))


def _blocks_of(found: SiteStatistics, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the block that each row can only be in, and whether it is."""
    block = np.searchsorted(found.starts, rows, side="right") - 1
    there: np.ndarray = block >= 0
    there[there] = rows[there] < found.stops[block[there]]
    return block, there


def _gaps(rows: range, starts: np.ndarray, stops: np.ndarray) -> Iterator[range]:
    """Yield what is left of consecutive rows without ascending blocks of them, in their order."""
    if not len(rows):
        return
    first, last = sorted((rows[0], rows[-1]))
    inside = (starts >= first) & (stops <= last + 1)
    lows = np.append(first, stops[inside])
    highs = np.append(starts[inside], last + 1)
    left = np.flatnonzero(highs > lows)
    for i in left if rows.step > 0 else left[::-1]:
        gap = range(int(lows[i]), int(highs[i]))
        yield gap if rows.step > 0 else gap[::-1]


def _arranged(known: Known, stream: RowStream) -> Known:
    """Return numbers of units as those of a stream: its reduced units are further groups."""
    if not stream.reduced:
        return known
    groups, shape = len(known.rows), stream.x.row_shape
    times = int(np.prod([shape[d] for d in stream.reduced], dtype=np.int64))

    def of(matrix: torch.Tensor) -> torch.Tensor:
        return stream.matrix(matrix.reshape(groups, *shape))

    arranged = {name: of(getattr(known, name)) for name in Known.MATRICES}
    return replace(known, rows=known.rows.repeat_interleave(times, dim=0), **arranged)
