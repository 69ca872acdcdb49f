"""The statistics of a site as they are stored: read when they are asked for, and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    ZONE_COLUMNS,
    ZONE_ROWS,
    ChunkStatistics,
    TopRows,
    Zones,
    part_range,
    read_blocks,
    read_top,
    read_zones,
)
from lazycache.types import IoCounters, ShardRef, StatsPart

KEPT_BYTES = 128 << 20
"""Statistics that a reader keeps in memory."""

COUNTS = ("nans", "pos_infs", "neg_infs")
"""The first of the matrices of blocks, in file order: how many values are not finite."""

READERS = 16
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

    @property
    def finite(self) -> np.ndarray:
        """bool[blocks]: of which it is known without reading that all values are finite."""
        ...

    def greatest(
        self, parts: Sequence[int], units: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yield of each part the greatest finite values, and their absolute rows or -1.

        [ranks, units] each, descending; of equal values the first rows.
        """
        ...

    def zones(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[ZoneRows]:
        """Yield the zones that the blocks `chosen`, bool[blocks], have rows of.

        Of blocks without zones there are none; of others they have all rows.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ZoneRows:
    """Some zones, in order, and which rows they are."""

    starts: np.ndarray
    """int64[zones]: first absolute rows."""
    stops: np.ndarray
    """int64[zones]: the rows after the last."""
    min: torch.Tensor
    """[zones, units] in the site's dtype: the least finite value; NaN where there is none."""
    max: torch.Tensor
    """[zones, units] in the site's dtype: the greatest, likewise."""


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

    def zones(self, plan: SitePlan, shard: int, part: int) -> Zones:
        """Return the zones of one part of a shard that has them; raises as `blocks`."""
        ref = plan.shards[shard]
        assert ref.stats is not None
        found = self._get(f"zones {part}", ref, ref.stats.zones[part], plan, ZONE_COLUMNS)
        assert isinstance(found, Zones)
        return found

    def lacks(self, kind: str, plan: SitePlan, shards: Iterable[int]) -> int:
        """Return of how many shards some kind has to be read first."""
        with self._lock:
            return sum((kind, plan.shards[shard].path) not in self._found for shard in shards)

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
        columns: tuple[str, ...],
    ) -> object:
        with self._lock:
            known = self._found.get((kind, ref.path))
            if known is not None:
                self._found.move_to_end((kind, ref.path))
                return known[0]
        assert part is not None
        found = self._read(ref, part, plan, columns)
        start, stop = part_range(part, plan.spec, columns)
        self._io.add_statistics(stop - start)
        # integers are kept as int64, zones as they are
        self._keep((kind, ref.path), found, (1 if columns is ZONE_COLUMNS else 2) * (stop - start))
        return found

    def _read(
        self, ref: ShardRef, part: StatsPart, plan: SitePlan, columns: Sequence[str]
    ) -> object:
        if columns is ZONE_COLUMNS:
            return read_zones(ref, plan.spec, self._get_ranges, parts=[part])
        read = read_blocks if columns is BLOCK_COLUMNS else read_top
        return read(ref, plan.spec, self._get_ranges)

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
    finite: np.ndarray
    """As `SiteStatistics.finite`."""

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
        # threads cost more than looking at what is kept
        lacking = self.kept.lacks("blocks", self.plan, shards.tolist())
        yield from ordered(of, pieces, workers=min(READERS, lacking))

    def lacking(self, chosen: np.ndarray | None) -> Iterator[tuple[str, str, int]]:
        """Yield what of the blocks `chosen` would be read: kind, path and bytes. Reads nothing.

        None: everything that is stored.
        """
        shards = np.unique(self.shard if chosen is None else self.shard[chosen]).tolist()
        for shard in shards:
            ref = self.plan.shards[shard]
            assert ref.stats is not None
            kinds: list[tuple[str, StatsPart | None, tuple[str, ...]]] = [
                ("blocks", ref.stats.blocks, BLOCK_COLUMNS)
            ]
            if chosen is None:
                kinds.append(("top", ref.stats.top, TOP_COLUMNS))
                zones = enumerate(ref.stats.zones)
                kinds += [(f"zones {number}", part, ZONE_COLUMNS) for number, part in zones]
            for kind, part, columns in kinds:
                if part is not None and self.kept.lacks(kind, self.plan, [shard]):
                    start, stop = part_range(part, self.plan.spec, columns)
                    yield kind, ref.path, stop - start

    def greatest(
        self, parts: Sequence[int], units: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yield values and absolute rows; see `SiteStatistics.greatest`. Cost as of `known`."""
        chosen = slice(None) if units is None else units

        def of(part: int) -> tuple[torch.Tensor, np.ndarray]:
            found = self.kept.top(self.plan, int(self.topped[part]))
            rows = found.rows if units is None else found.rows[:, units.numpy()]
            return found.values[:, chosen], np.where(rows >= 0, rows + self.tops[0][part], -1)

        lacking = self.kept.lacks("top", self.plan, self.topped[list(parts)].tolist())
        yield from ordered(of, parts, workers=min(READERS, lacking))

    def zones(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[ZoneRows]:
        """Yield zones; see `SiteStatistics.zones`.

        Cost: one ranged read of about 1 MiB for each part that has one of the rows, some at a time;
        nothing for what is kept.

        Raises:
            CorruptShardError: statistics are not what the log recorded.
        """
        wanted = self._zone_parts(chosen)

        def of(piece: tuple[int, int, int, int]) -> ZoneRows:
            shard, part, first, last = piece
            found = self.kept.zones(self.plan, shard, part)
            starts = np.arange(first, last, ZONE_ROWS)
            chosen = slice(None) if units is None else units
            return ZoneRows(
                starts,
                np.minimum(starts + ZONE_ROWS, last),
                found.min[:, chosen],
                found.max[:, chosen],
            )

        lacking = sum(self.kept.lacks(f"zones {p}", self.plan, [s]) for s, p, _, _ in wanted)
        yield from ordered(of, wanted, workers=min(READERS, lacking))

    def _zone_parts(self, chosen: np.ndarray) -> list[tuple[int, int, int, int]]:
        """Return shard, part, first row and the row after the last of parts with wanted rows."""
        found = []
        for shard in np.unique(self.shard[chosen]).tolist():
            ref, mine = self.plan.shards[shard], chosen & (self.shard == shard)
            assert ref.stats is not None
            first = int(self.plan.starts[np.searchsorted(self.plan.shard, shard)])
            end = first + ref.rows
            for part, one in enumerate(ref.stats.zones):
                last = min(end, first + one.rows * ZONE_ROWS)
                if (mine & (self.starts < last) & (self.stops > first)).any():
                    found.append((shard, part, first, last))
                first = last
        return found


def of_plan(plan: SitePlan, kept: Kept) -> StoredStatistics | None:
    """Return the statistics of a site; None if none of its shards has any. Reads nothing."""
    blocks: list[tuple[int, int, int, int, bool]] = []
    topped = []
    for number, ref in enumerate(plan.shards):
        if ref.stats is None or ref.stats.blocks is None:
            continue
        chunk = int(np.searchsorted(plan.shard, number))
        rows = [c.rows for c in ref.chunks]
        start, at = int(plan.starts[chunk]), 0
        # counts that are zero all over a shard are not stored
        finite = not any(ref.stats.blocks.offsets[: len(COUNTS)])
        for place, count in enumerate(ref.stats.chunks):
            stop = start + sum(rows[at : at + count])
            blocks.append((start, stop, number, place, finite))
            start, at = stop, at + count
        if ref.stats.top is not None:
            topped.append(number)
    if not blocks:
        return None
    starts, stops, shard, place_, all_finite = np.array(blocks, dtype=np.int64).T.copy()
    parts = np.array(topped, dtype=np.int64)
    firsts = plan.starts[np.searchsorted(plan.shard, parts)]
    lasts = plan.stops[np.searchsorted(plan.shard, parts, side="right") - 1]
    return StoredStatistics(
        plan, kept, starts, stops, shard, place_, parts, (firsts, lasts), all_finite > 0
    )


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
