"""The best rows of one unit by the bounds that are stored of its rows: few of them are read.

Of each whole shard the greatest values are stored with their rows, of each block of rows the least
and the greatest, and of each 128 rows of a block too. Of many shards only the k with the greatest
values are asked for their lists. Pieces of rows are looked at in descending order of the best that
they can have, until none can have one of the k best: blocks become zones, rows of zones are read.
What is not finite is only counted, block by block; it counts as a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lazycache.cache.aggregates.extremes import NOWHERE, Top
from lazycache.cache.reading.known import Known
from lazycache.cache.reading.ordering import keys_of
from lazycache.cache.reading.site_statistics import Extreme, SiteStatistics
from lazycache.cache.selecting.examples import ragged_arange
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.spans import Spans, of_ranges

LEAST = -(1 << 63)
"""Bound of rows of which none can be among the best, unless there are too few others."""

MOST = (1 << 63) - 1
"""Bound of rows of which nothing is known."""

FIRST_PIECES = 4
"""Pieces that are looked at first, and of them those that are read; then twice as many each time:
half of what is read is too much at most."""


_ENDS = ("starts", "stops")


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Ranges of rows and what the best of each can be. int64[n] each."""

    start: np.ndarray
    """First rows."""
    stop: np.ndarray
    """The rows after the last."""
    bound: np.ndarray
    """No score is above it. A score: keys of values, or their complements for the smallest."""
    floor: np.ndarray
    """The part of the bound that does not come from finite values."""
    first: np.ndarray
    """No row before this one has the bound itself."""
    block: np.ndarray
    """The block that has to become zones first; -1: rows are read."""

    def of(self, chosen: np.ndarray) -> Pieces:
        """Return some of them."""
        return Pieces(*(getattr(self, name)[chosen] for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Which values are best."""

    largest: bool
    """Or the smallest."""
    nans: bool
    """Whether NaN counts, as the largest of all; else it is left out."""

    def scores(self, values: torch.Tensor) -> np.ndarray:
        """Return int64 numbers, the higher the better."""
        keys: np.ndarray = keys_of(values).numpy()
        return keys if self.largest else ~keys

    @property
    def best(self) -> Extreme:
        """Which finite value of some rows is the best of them."""
        return "max" if self.largest else "min"

    def bounds(self, best: torch.Tensor) -> np.ndarray:
        """Return the scores of the best finite values; NaN stands for none."""
        scores = self.scores(best)
        if not best.dtype.is_floating_point:
            return scores
        return np.where(best.isnan().numpy(), LEAST, scores)

    def floors(self, known: Known) -> np.ndarray:
        """Return the best scores of what is not finite in blocks, from their counts."""
        floors = np.full(len(known.rows), LEAST, dtype=np.int64)
        odd = [(torch.inf, known.pos_infs), (-torch.inf, known.neg_infs)]
        for value, counts in [*odd, (torch.nan, known.nans)] if self.nans else odd:
            there = (counts[:, 0] > 0).numpy()
            if there.any():
                score = self.scores(torch.tensor([value]).to(known.min.dtype))[0]
                floors[there & (floors < score)] = score
        return floors


class Search:
    """Finds the best rows of one unit among selected ones.

    Args:
        found: What is stored of the site.
        unit: int64[1], the unit.
        selected: The rows that are selected.
        order: Which values are best.
        total: Takes the best in.
        k: How many are the best.
        read: Reads rows, ascending, and has `total` take them in.
    """

    def __init__(
        self,
        found: SiteStatistics,
        unit: torch.Tensor,
        selected: Spans,
        *,
        order: Order,
        total: Top,
        k: int,
        read: Callable[[Rows], None],
    ) -> None:
        self._k = k
        self._found, self._unit, self._selected = found, unit, selected
        self._order, self._total, self._read = order, total, read
        self._listed = np.empty(0, dtype=np.int64)

    def run(self) -> None:
        """Take in all that can be among the best."""
        touched = np.flatnonzero(self._selected.touches(self._found.starts, self._found.stops))
        pieces = _joined([self._unknown(touched), self._blocks(touched, *self._lists(touched))])
        looked, read = FIRST_PIECES, FIRST_PIECES
        while len(pieces.start):
            pieces = pieces.of(self._hopeful(pieces))
            best = np.lexsort((pieces.start, ~pieces.bound))
            of_block = pieces.block[best] >= 0
            now = np.arange(len(best)) < looked
            known = now & ~of_block
            known &= np.cumsum(known) <= read
            self._take(pieces.of(best[known]))
            zones = self._zones(pieces.of(best[now & of_block]))
            pieces = _joined([zones, pieces.of(best[~known & ~(now & of_block)])])
            looked, read = 2 * looked, 2 * read if known.any() else read

    def _hopeful(self, pieces: Pieces) -> np.ndarray:
        """Return which pieces may have one of the best rows: bool[n]."""
        last = self._total.last()
        if last is None:
            return np.ones(len(pieces.start), dtype=np.bool_)
        score, row = last
        hopeful: np.ndarray = (pieces.bound > score) | (
            (pieces.bound == score) & (pieces.first < row)
        )
        return hopeful

    def _lists(self, touched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take in the greatest values that are stored of shards.

        Returns:
            Of each touched block a bound of what is not listed of its shard, and the first row that
            may have the bound itself: the score of the last that is listed, and the row after it.
            LEAST if all finite values are listed, MOST if nothing is stored.
        """
        cap, after = np.full(len(touched), MOST), np.zeros(len(touched), dtype=np.int64)
        firsts, lasts = self._found.tops
        blocks = self._found.starts[touched]
        part = np.searchsorted(firsts, blocks, side="right") - 1
        there = part >= 0
        there[there] = blocks[there] < lasts[part[there]]
        if not self._order.largest or not there.any():
            return cap, after
        parts, which = np.unique(part[there], return_inverse=True)
        bound, row = np.full(len(parts), MOST), np.zeros(len(parts), dtype=np.int64)
        if len(parts) > self._k:
            bound = self._order.bounds(self._found.peaks(parts.tolist(), self._unit)[:, 0])
        # the best are in those that have the greatest: of equal ones, the first
        first = np.sort(np.lexsort((parts, ~bound))[: self._k])
        found = list(self._found.greatest(parts[first].tolist(), self._unit))
        self._take_listed(*zip(*found, strict=True))
        last = self._order.scores(torch.cat([values[-1] for values, _ in found]))
        row[first] = np.concatenate([rows[-1] for _, rows in found]) + 1
        counts = np.array([len(rows) for _, rows in found])
        # a rank of no row says that there are no more
        everything = (row[first] == 0) | (counts == (lasts - firsts)[parts[first]])
        bound[first] = np.where(everything, LEAST, last)
        cap[there], after[there] = bound[which], row[which]
        return cap, after

    def _take_listed(self, values: Sequence[torch.Tensor], rows: Sequence[np.ndarray]) -> None:
        numbers = np.concatenate(rows)[:, 0]
        kept = (numbers >= 0) & self._selected.holds(numbers)
        self._listed = np.sort(numbers[kept])
        chosen = torch.cat(list(values))[torch.from_numpy(kept)]
        self._total.add(chosen, numbers[kept])

    def _unknown(self, touched: np.ndarray) -> Pieces:
        """Return the selected rows that are in no block."""
        starts, stops = self._found.starts[touched], self._found.stops[touched]
        gaps = of_ranges(np.append(0, stops), np.append(starts, NOWHERE))
        left = gaps & self._selected
        most = np.full(len(left.starts), MOST)
        return Pieces(left.starts, left.stops, most, most, left.starts, np.full_like(most, -1))

    def _blocks(self, touched: np.ndarray, cap: np.ndarray, after: np.ndarray) -> Pieces:
        """Return the blocks that may have some of the best; of others not even bounds are read."""
        start, stop = self._found.starts[touched], self._found.stops[touched]
        none = np.full(len(touched), LEAST)
        listed = Pieces(start, stop, cap, none, np.maximum(start, after), touched)
        odd = ~self._found.finite[touched]
        open_ = self._hopeful(listed) | odd
        if not open_.any():
            return listed.of(open_)
        none[odd] = self._floors(touched[odd])
        found = replace(listed, floor=none).of(open_)
        best = self._found.extremes(self._order.best, self._chosen(found.block), self._unit)
        made = _within(found, found.start, found.stop, self._order.bounds(best[:, 0]))
        return replace(made, block=found.block)

    def _floors(self, blocks: np.ndarray) -> np.ndarray:
        """Return the best scores of what is not finite in some ascending blocks."""
        known = self._found.known(self._chosen(blocks), self._unit) if len(blocks) else ()
        return np.concatenate([np.empty(0, np.int64), *map(self._order.floors, known)])

    def _chosen(self, blocks: np.ndarray) -> np.ndarray:
        chosen = np.zeros(len(self._found.starts), dtype=np.bool_)
        chosen[blocks] = True
        return chosen

    def _zones(self, blocks: Pieces) -> Pieces:
        """Return the zones of blocks; those whose rows have to be read are pieces of themselves.

        A block that may have values that are not finite among the best is read as a whole: nobody
        knows where they are.
        """
        if not len(blocks.start):
            return blocks
        direct = blocks.floor >= blocks.bound
        wanted = blocks.of(~direct)
        wanted = wanted.of(np.argsort(wanted.start))
        covered = np.zeros(len(wanted.start), dtype=np.bool_)
        made = [_to_read(blocks.of(direct))]
        chosen = self._chosen(wanted.block)
        parts = list(self._found.zones(chosen, self._unit)) if len(wanted.block) else []
        if parts:
            starts, stops = (np.concatenate([getattr(p, n) for p in parts]) for n in _ENDS)
            best = torch.cat([getattr(part, self._order.best)[:, 0] for part in parts])
            block, zone = _overlaps(wanted, starts, stops)
            covered[block] = True
            bound = self._order.bounds(best)[zone]
            made.append(_within(wanted.of(block), starts[zone], stops[zone], bound))
        found = _joined([*made, _to_read(wanted.of(~covered))])
        return found.of(self._selected.touches(found.start, found.stop))

    def _take(self, pieces: Pieces) -> None:
        """Read the selected rows of pieces."""
        rows = (of_ranges(pieces.start, pieces.stop) & self._selected).rows()
        if len(self._listed):
            numbers = as_array(rows)
            rows = numbers[~np.isin(numbers, self._listed, assume_unique=True)]
        if len(rows):
            self._read(rows)


def _joined(parts: Sequence[Pieces]) -> Pieces:
    names = Pieces.__slots__
    return Pieces(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _to_read(blocks: Pieces) -> Pieces:
    return replace(blocks, block=np.full_like(blocks.block, -1))


def _overlaps(
    blocks: Pieces, starts: np.ndarray, stops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of a block and a zone that have rows in common: int64[n] each."""
    low = np.searchsorted(stops, blocks.start, side="right")
    high = np.searchsorted(starts, blocks.stop, side="left")
    counts = np.maximum(0, high - low)
    return np.repeat(np.arange(len(low)), counts), ragged_arange(low, counts)


def _within(blocks: Pieces, starts: np.ndarray, stops: np.ndarray, bound: np.ndarray) -> Pieces:
    """Return zones as far as they are in blocks, one for each."""
    start, stop = np.maximum(starts, blocks.start), np.minimum(stops, blocks.stop)
    best = np.minimum(bound, blocks.bound)
    first = np.where(best == blocks.bound, np.maximum(start, blocks.first), start)
    return Pieces(
        start,
        stop,
        np.maximum(best, blocks.floor),
        blocks.floor,
        np.where(blocks.floor >= best, start, first),
        np.full_like(start, -1),
    )
