"""The statistics of a site as they are stored: read when they are asked for, and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from lazycache.cache.files.parallel import ordered
from lazycache.cache.reading.known import Known
from lazycache.cache.selecting.plan import SitePlan
from lazycache.codec.statistics import (
    BLOCK_COLUMNS,
    TOP_COLUMNS,
    ChunkStatistics,
    TopRows,
    part_range,
    read_blocks,
    read_top,
)
from lazycache.types import IoCounters, ShardRef, StatsPart

KEPT_BYTES = 128 << 20
"""Statistics that a reader keeps in memory."""

READERS = 8
"""Shards whose statistics are read at a time: a store in the distance answers each in its time."""

GetRanges = Callable[[str, Sequence[tuple[int, int]]], list[bytes]]


class SiteStatistics(Protocol):
    """What is known of the rows of a site without reading them."""

    @property
    def starts(self) -> np.ndarray:
        """int64[blocks]: first absolute row of each block, ascending."""
        ...

    @property
    def stops(self) -> np.ndarray:
        """int64[blocks]: the row after the last."""
        ...

    @property
    def tops(self) -> tuple[np.ndarray, np.ndarray]:
        """First rows of the parts whose greatest values are known, and the rows after their last.

        A part is some consecutive blocks.
        """
        ...

    def known(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[Known]:
        """Yield the numbers of the blocks `chosen`, bool[blocks], of some units."""
        ...

    def top(self, part: int) -> tuple[torch.Tensor, np.ndarray]:
        """Return the greatest finite values of a part, and their absolute rows or -1.

        [ranks, units] each, descending.
        """
        ...


class Kept:
    """Statistics in memory, the ones used longest ago first to go. Thread-safe."""

    def __init__(self, get_ranges: GetRanges, io: IoCounters) -> None:
        self._get_ranges = get_ranges
        self._io = io
        self._found: OrderedDict[tuple[str, str], tuple[object, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def blocks(self, plan: SitePlan, shard: int) -> ChunkStatistics:
        """Return the statistics of a shard that has them.

        Raises:
            CorruptShardError: they are not what the log recorded.
        """
        ref = plan.shards[shard]
        assert ref.stats is not None
        found = self._get("blocks", ref, ref.stats.blocks, plan, BLOCK_COLUMNS)
        assert isinstance(found, ChunkStatistics)
        return found

    def top(self, plan: SitePlan, shard: int) -> TopRows:
        """Return the greatest values of a shard that has them; raises as `blocks`."""
        ref = plan.shards[shard]
        assert ref.stats is not None
        found = self._get("top", ref, ref.stats.top, plan, TOP_COLUMNS)
        assert isinstance(found, TopRows)
        return found

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._found.clear()
            self._bytes = 0

    def _get(
        self,
        kind: str,
        ref: ShardRef,
        part: StatsPart | None,
        plan: SitePlan,
        columns: Sequence[str],
    ) -> object:
        with self._lock:
            known = self._found.get((kind, ref.path))
            if known is not None:
                self._found.move_to_end((kind, ref.path))
                return known[0]
        assert part is not None
        read = read_blocks if kind == "blocks" else read_top
        found = read(ref, plan.spec, self._get_ranges)
        start, stop = part_range(part, plan.spec, columns)
        self._io.add_statistics(stop - start)
        self._keep((kind, ref.path), found, 2 * (stop - start))
        return found

    def _keep(self, key: tuple[str, str], found: object, nbytes: int) -> None:
        with self._lock:
            if key not in self._found:
                self._bytes += nbytes
                self._found[key] = (found, nbytes)
            while self._bytes > KEPT_BYTES and len(self._found) > 1:
                self._bytes -= self._found.popitem(last=False)[1][1]


@dataclass(frozen=True, slots=True, eq=False)
class StoredStatistics:
    """The statistics of the shards of one site."""

    plan: SitePlan
    """Its shards."""
    kept: Kept
    """Reads them."""
    starts: np.ndarray
    """As `SiteStatistics.starts`."""
    stops: np.ndarray
    """As `SiteStatistics.stops`."""
    shard: np.ndarray
    """int64[blocks]: the shard of each block."""
    place: np.ndarray
    """int64[blocks]: its place among the blocks of the shard."""
    topped: np.ndarray
    """int64[parts]: the shards whose greatest values are stored."""
    tops: tuple[np.ndarray, np.ndarray]
    """As `SiteStatistics.tops`."""

    def known(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[Known]:
        """Yield the numbers of the blocks `chosen`, shard by shard; see `SiteStatistics.known`.

        Cost: one ranged read for each shard, some at a time; nothing for what is kept.

        Raises:
            CorruptShardError: statistics are not what the log recorded.
        """

        def of(piece: tuple[int, np.ndarray]) -> Known:
            shard, places = piece
            return of_blocks(self.kept.blocks(self.plan, shard), places, units)

        # blocks are in the order of their shards
        shards, firsts = np.unique(self.shard[chosen], return_index=True)
        pieces = zip(shards.tolist(), np.split(self.place[chosen], firsts[1:]), strict=False)
        yield from ordered(of, pieces, workers=min(READERS, len(shards)))

    def top(self, part: int) -> tuple[torch.Tensor, np.ndarray]:
        """Return values and absolute rows; see `SiteStatistics.top`."""
        shard = int(self.topped[part])
        found = self.kept.top(self.plan, shard)
        rows = np.where(found.rows >= 0, found.rows + self.tops[0][part], -1)
        return found.values, rows


def of_plan(plan: SitePlan, kept: Kept) -> StoredStatistics | None:
    """Return the statistics of a site; None if none of its shards has any. Reads nothing."""
    blocks: list[tuple[int, int, int, int]] = []
    topped = []
    for number, ref in enumerate(plan.shards):
        if ref.stats is None or ref.stats.blocks is None:
            continue
        chunk = int(np.searchsorted(plan.shard, number))
        rows = [c.rows for c in ref.chunks]
        start, at = int(plan.starts[chunk]), 0
        for place, count in enumerate(ref.stats.chunks):
            stop = start + sum(rows[at : at + count])
            blocks.append((start, stop, number, place))
            start, at = stop, at + count
        if ref.stats.top is not None:
            topped.append(number)
    if not blocks:
        return None
    starts, stops, shard, place_ = np.array(blocks, dtype=np.int64).T.copy()
    parts = np.array(topped, dtype=np.int64)
    firsts = plan.starts[np.searchsorted(plan.shard, parts)]
    lasts = plan.stops[np.searchsorted(plan.shard, parts, side="right") - 1]
    return StoredStatistics(plan, kept, starts, stops, shard, place_, parts, (firsts, lasts))


def of_blocks(found: ChunkStatistics, places: np.ndarray, units: torch.Tensor | None) -> Known:
    """Return the numbers of some blocks of a shard, of some units or all."""
    chosen = slice(None) if len(places) == len(found.rows) else torch.from_numpy(places)

    def of(matrix: torch.Tensor | np.ndarray) -> torch.Tensor:
        values = torch.from_numpy(matrix) if isinstance(matrix, np.ndarray) else matrix
        values = values[chosen]
        return values if units is None else values[:, units]

    return Known(
        rows=torch.from_numpy(found.rows)[chosen][:, None],
        **{name: of(getattr(found, name)) for name in Known.MATRICES},
    )
