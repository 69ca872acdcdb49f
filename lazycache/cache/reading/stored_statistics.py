"""The statistics of a site as they are stored: read when they are asked for, and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.cache.files.parallel import ordered
from lazycache.cache.reading.kept_statistics import Kept, columns_of
from lazycache.cache.reading.known import Known
from lazycache.cache.reading.ordering import comparable, original
from lazycache.cache.reading.site_statistics import Extreme, ZoneRows
from lazycache.cache.selecting.plan import SitePlan
from lazycache.codec.statistics import ZONE_ROWS, ChunkStatistics, TopRows, part_range
from lazycache.types import StatsPart

COUNTS = ("nans", "pos_infs", "neg_infs")
"""The first of the matrices of blocks, in file order: how many values are not finite."""

READERS = 16
"""Shards whose statistics are read at a time: a store in the distance answers each in its time."""


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
    zoned: ZoneParts
    """Where its zones are stored."""

    def known(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[Known]:
        """Yield the numbers of the blocks `chosen`, shard by shard; see `SiteStatistics.known`.

        Cost: one ranged read for each shard, some at a time; nothing for what is kept.

        Raises:
            CorruptShardError: statistics are not what the log recorded.
        """

        def of(piece: tuple[ChunkStatistics, np.ndarray]) -> Known:
            return of_blocks(*piece, units)

        # blocks are in the order of their shards
        shards, firsts = np.unique(self.shard[chosen], return_index=True)
        places = np.split(self.place[chosen], firsts[1:])
        yield from map(of, zip(self._blocks(shards), places, strict=False))

    def _blocks(self, shards: np.ndarray) -> Iterator[ChunkStatistics]:
        """Yield the statistics of shards, some read at a time."""
        numbers = shards.tolist()
        # threads cost more than looking at what is kept
        turn, lacking = self.kept.begin(self.plan, (("blocks", shard) for shard in numbers))
        yield from ordered(
            lambda shard: self.kept.blocks(self.plan, shard, turn),
            numbers,
            workers=min(READERS, lacking),
        )

    def extremes(self, which: Extreme, chosen: np.ndarray, units: torch.Tensor) -> torch.Tensor:
        """Return a number of the blocks `chosen`; see `SiteStatistics.extremes`.

        Cost: as of `known` for shards that were never asked; then nothing, also of other units,
        where a number for each unit of all blocks fits in the memory for it (`MATRIX_BYTES`).

        Raises:
            CorruptShardError: statistics are not what the log recorded.
        """
        kept = self.kept.matrix(self.plan, which, len(self.starts))
        if kept is None:
            found = [getattr(known, which) for known in self.known(chosen, units)]
            return torch.cat(found) if found else torch.empty((0, len(units)), dtype=self._dtype)
        shards = np.unique(self.shard[chosen & ~kept.there])
        firsts, lasts = (np.searchsorted(self.shard, shards, side=s) for s in ("left", "right"))
        places = zip(firsts.tolist(), lasts.tolist(), strict=True)
        for (first, last), blocks in zip(places, self._blocks(shards), strict=True):
            kept.values[first:last] = getattr(blocks, which)
            kept.there[first:last] = True
        return kept.values[:, units][torch.from_numpy(chosen)]

    @property
    def _dtype(self) -> torch.dtype:
        return self.plan.dtype.torch

    def lacking(self, chosen: np.ndarray | None) -> Iterator[tuple[str, str, int]]:
        """Yield what of the blocks `chosen` would be read: kind, path and bytes. Reads nothing.

        Of a store with a block cache it is a bound: `kept.extra_bytes` come with each.

        None: everything that is stored.
        """
        shards = np.unique(self.shard if chosen is None else self.shard[chosen]).tolist()
        for shard in shards:
            ref = self.plan.shards[shard]
            assert ref.stats is not None
            kinds: list[tuple[str, StatsPart | None]] = [("blocks", ref.stats.blocks)]
            if chosen is None:
                zones = enumerate(ref.stats.zones)
                kinds += [("top", ref.stats.top), *((f"zones {n}", part) for n, part in zones)]
            for kind, part in kinds:
                if part is not None and self.kept.lacks(kind, ref.path):
                    yield kind, ref.path, self._size(kind, part) + self.kept.extra_bytes

    def _size(self, kind: str, part: StatsPart) -> int:
        start, stop = part_range(part, self.plan.spec, columns_of(kind))
        return stop - start

    def peaks(self, parts: Sequence[int], units: torch.Tensor) -> torch.Tensor:
        """Return the greatest of each part; see `SiteStatistics.peaks`.

        Cost: of parts that were never asked, the statistics of their blocks or their greatest
        values, whichever is less to read; then nothing, also of other units, where a number for
        each unit of all parts fits in the memory for it (`MATRIX_BYTES`).

        Raises:
            CorruptShardError: statistics are not what the log recorded.
        """
        kept = self.kept.matrix(self.plan, "peaks", len(self.topped))
        if kept is None:
            return torch.cat([peak[None, units] for peak in self._peaks(np.array(parts))])
        lacking = np.array(parts)[~kept.there[list(parts)]]
        for part, peak in zip(lacking.tolist(), self._peaks(lacking), strict=True):
            kept.values[part] = peak
            kept.there[part] = True
        return kept.values[:, units][list(parts)]

    def _peaks(self, parts: np.ndarray) -> Iterator[torch.Tensor]:
        """Yield the greatest finite value of each unit, part by part."""
        shards = self.topped[parts]
        if self._unread("blocks", shards) < self._unread("top", shards):
            yield from (_greatest_of(blocks.max) for blocks in self._blocks(shards))
        else:
            yield from map(_first_of, self._tops(parts.tolist()))

    def _unread(self, kind: str, shards: np.ndarray) -> int:
        """Return how many bytes of some kind have to be read of shards."""
        total = 0
        for shard in shards.tolist():
            stats = self.plan.shards[shard].stats
            part = None if stats is None else stats.blocks if kind == "blocks" else stats.top
            if part is not None and self.kept.lacks(kind, self.plan.shards[shard].path):
                total += self._size(kind, part)
        return total

    def greatest(
        self, parts: Sequence[int], units: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yield values and absolute rows; see `SiteStatistics.greatest`. Cost as of `known`."""
        chosen = slice(None) if units is None else units
        for part, found in zip(parts, self._tops(parts), strict=True):
            rows = found.rows if units is None else found.rows[:, units.numpy()]
            yield found.values[:, chosen], np.where(rows >= 0, rows + self.tops[0][part], -1)

    def _tops(self, parts: Sequence[int]) -> Iterator[TopRows]:
        """Yield the greatest values of parts, some read at a time."""
        shards = self.topped[list(parts)].tolist()
        turn, lacking = self.kept.begin(self.plan, (("top", shard) for shard in shards))
        yield from ordered(
            lambda shard: self.kept.top(self.plan, shard, turn),
            shards,
            workers=min(READERS, lacking),
        )

    def zones(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[ZoneRows]:
        """Yield zones; see `SiteStatistics.zones`.

        Cost: one ranged read of about 1 MiB for each part that has one of the rows, some at a time;
        nothing for what is kept.

        Raises:
            CorruptShardError: statistics are not what the log recorded.
        """
        zoned = self.zoned
        wanted = zoned.touched(self.starts[chosen], self.stops[chosen]).tolist()

        def of(number: int) -> ZoneRows:
            shard, part = int(zoned.shard[number]), int(zoned.part[number])
            found = self.kept.zones(self.plan, shard, part, turn)
            starts = np.arange(zoned.starts[number], zoned.stops[number], ZONE_ROWS)
            stops = np.minimum(starts + ZONE_ROWS, zoned.stops[number])
            chosen = slice(None) if units is None else units
            return ZoneRows(starts, stops, found.min[:, chosen], found.max[:, chosen])

        kinds = ((f"zones {zoned.part[number]}", int(zoned.shard[number])) for number in wanted)
        turn, lacking = self.kept.begin(self.plan, kinds)
        yield from ordered(of, wanted, workers=min(READERS, lacking))


@dataclass(frozen=True, slots=True, eq=False)
class ZoneParts:
    """The parts in which the zones of all shards are stored, in row order. int64[parts] each."""

    shard: np.ndarray
    """The shard of each."""
    part: np.ndarray
    """Its place among the parts of the shard."""
    starts: np.ndarray
    """First rows."""
    stops: np.ndarray
    """The rows after the last."""

    def touched(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return the parts that have rows of some ascending ranges, ascending."""
        low = np.searchsorted(self.stops, starts, side="right")
        high = np.searchsorted(self.starts, stops, side="left")
        depth = np.zeros(len(self.starts) + 1, dtype=np.int64)
        there = low < high
        np.add.at(depth, low[there], 1)
        np.add.at(depth, high[there], -1)
        return np.flatnonzero(depth.cumsum()[:-1])


def of_plan(plan: SitePlan, kept: Kept) -> StoredStatistics | None:
    """Return the statistics of a site; None if none of its shards has any. Reads nothing."""
    blocks: list[tuple[int, int, int, int, bool]] = []
    zones: list[tuple[int, int, int, int]] = []
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
        first, end = int(plan.starts[chunk]), int(plan.starts[chunk]) + ref.rows
        for place, one in enumerate(ref.stats.zones):
            last = min(end, first + one.rows * ZONE_ROWS)
            zones.append((number, place, first, last))
            first = last
        if ref.stats.top is not None:
            topped.append(number)
    if not blocks:
        return None
    starts, stops, shard, place_, all_finite = np.array(blocks, dtype=np.int64).T.copy()
    parts = np.array(topped, dtype=np.int64)
    firsts = plan.starts[np.searchsorted(plan.shard, parts)]
    lasts = plan.stops[np.searchsorted(plan.shard, parts, side="right") - 1]
    zoned = ZoneParts(*np.array(zones, dtype=np.int64).reshape(-1, 4).T.copy())
    return StoredStatistics(
        plan, kept, starts, stops, shard, place_, parts, (firsts, lasts), all_finite > 0, zoned
    )


def _greatest_of(blocks: torch.Tensor) -> torch.Tensor:
    """Return the greatest of all blocks, [units] of [blocks, units], where NaN is none."""
    if len(blocks) == 1:
        return blocks[0]
    values = comparable(blocks)
    if not values.dtype.is_floating_point:
        return original(values.amax(0), blocks.dtype)
    none = values.isnan()
    found = values.masked_fill(none, -torch.inf).amax(0).masked_fill(none.all(0), torch.nan)
    return original(found, blocks.dtype)


def _first_of(found: TopRows) -> torch.Tensor:
    """Return the first rank of each unit; NaN where there is none."""
    first = found.values[0]
    if not first.dtype.is_floating_point:
        return first
    none = torch.from_numpy(found.rows[0] < 0)
    return original(comparable(first).masked_fill(none, torch.nan), first.dtype)


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
