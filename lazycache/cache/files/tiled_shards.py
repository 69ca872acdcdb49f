"""Rows of sites of which some shards are cut into tiles, from the maps of this machine.

Each tile is read as a site is, by what reads whole rows; here its units are put into the rows that
were asked for. A read of units of one tile is as cheap as one of rows, and can be a view or a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise, zip_longest

import numpy as np
import torch

from lazycache.cache.files.gather import as_tensor, empty, words_of
from lazycache.cache.files.mapped_shards import COPIED_BYTES, MappedShards
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.files.readahead import read_ahead_ranges
from lazycache.cache.selecting.plan import SitePlan, Span
from lazycache.cache.selecting.tilings import TileUnits, cut_units
from lazycache.cache.selecting.units import Units
from lazycache.types import IoCounters

_AHEAD_BYTES = 64 << 20  # of tiles that are on their way from a disk
_FEW_ROWS = 64  # of a chunk
_ROWS_AT_ONCE = 1024  # so that the rows that tiles are put into stay in the processor's cache


class RangesOnly(IoCounters):
    """Counts ranges and their bytes elsewhere, but no rows: of a row there are several tiles."""

    def __init__(self, io: IoCounters) -> None:
        super().__init__()
        self._io = io

    def add(
        self,
        *,
        requests: int,
        rows: int,  # noqa: ARG002  # left out
        nbytes: int,
        cached: int = 0,
    ) -> None:
        """Count one read of a tile."""
        self._io.add(requests=requests, rows=0, nbytes=nbytes, cached=cached)


class MappedTiles:
    """Shards of this machine, in rows or in tiles.

    Args:
        whole: reads shards whose rows are whole.
        tiles: reads tiles; counts ranges only.
        io: where rows are counted.
    """

    def __init__(self, whole: MappedShards, tiles: MappedShards, io: IoCounters) -> None:
        self._whole = whole
        self._tiles = tiles
        self._io = io

    def view(self, plan: SitePlan, span: Span, *, units: Units) -> torch.Tensor:
        """Return the rows of a span to be read and dropped; units of one tile are not copied."""
        tile = tile_at(plan, span)
        if not tile:
            return self._whole.view(plan, span, units=units)
        cuts = cut_units(units, plan.tilings[tile].widths)
        if len(cuts) != 1:
            out = empty((span.rows, *units.shape), plan.dtype.torch)
            self.copy(plan, [span], units=units, out=out)
            return out
        self._io.add(requests=0, rows=span.rows, nbytes=0)
        (cut,) = cuts
        where = in_tile(plan, span, tile, cut.number)
        found = self._tiles.view(plan.of_tile(tile, cut.number), where, units=cut.units)
        return found.reshape(span.rows, *units.shape)

    def lend(self, plan: SitePlan, span: Span, *, units: Units) -> torch.Tensor | None:
        """Return the rows of a span as memory of the caller's own; None where a copy is better."""
        tile = tile_at(plan, span)
        if not tile:
            return self._whole.lend(plan, span, units=units)
        cuts = cut_units(units, plan.tilings[tile].widths)
        if len(cuts) != 1:
            return None
        (cut,) = cuts
        where = in_tile(plan, span, tile, cut.number)
        found = self._tiles.lend(plan.of_tile(tile, cut.number), where, units=cut.units)
        if found is None:
            return None
        self._io.add(requests=0, rows=span.rows, nbytes=0)
        return found.reshape(span.rows, *units.shape)

    def copy(
        self, plan: SitePlan, spans: Sequence[Span], *, units: Units, out: torch.Tensor
    ) -> None:
        """Fill `out` with consecutive rows, span after span."""
        done = 0
        for tile, group in alike(plan, spans):
            part = out[done : done + sum(span.rows for span in group)]
            done += len(part)
            if not tile:
                self._whole.copy(plan, group, units=units, out=part)
            elif units.count:
                self._copy_tiles(plan, tile, group, units=units, out=part)
            else:
                self._io.add(requests=0, rows=len(part), nbytes=0)

    def _copy_tiles(
        self, plan: SitePlan, tile: int, spans: Sequence[Span], *, units: Units, out: torch.Tensor
    ) -> None:
        if out.nbytes < COPIED_BYTES and len(out) <= _FEW_ROWS * len(spans):
            # a look at every tile costs more than a gather of all
            out.copy_(self._taken(plan, tile, _rows_of(plan, spans), units=units))
            return
        target = words_of(out.view(len(out), units.count))
        cuts = cut_units(units, plan.tilings[tile].widths)
        windows = _windows(plan, spans, cuts)
        self._read_ahead(plan, tile, windows[0], cuts)
        done = 0
        for window, after in zip_longest(windows, windows[1:], fillvalue=()):
            self._read_ahead(plan, tile, after, cuts)
            rows = sum(span.rows for span in window)
            self._copy_window(plan, tile, window, cuts, target[done : done + rows])
            done += rows
        self._io.add(requests=0, rows=len(out), nbytes=0)

    def _copy_window(
        self,
        plan: SitePlan,
        tile: int,
        spans: Sequence[Span],
        cuts: Sequence[TileUnits],
        target: np.ndarray,
    ) -> None:
        stops = np.cumsum([span.rows for span in spans])

        def fill(i: int) -> None:
            rows = target[stops[i] - spans[i].rows : stops[i]]
            views = [self._tile(plan, tile, spans[i], cut) for cut in cuts]
            for row in range(0, len(rows), _ROWS_AT_ONCE):
                block = slice(row, row + _ROWS_AT_ONCE)
                for cut, view in zip(cuts, views, strict=True):
                    rows[block, cut.slots] = view[block]

        for _ in ordered(fill, range(len(spans)), workers=threads(target.nbytes)):
            pass

    def _read_ahead(
        self, plan: SitePlan, tile: int, spans: Sequence[Span], cuts: Sequence[TileUnits]
    ) -> None:
        """Have the disk read tiles while those before are copied: they lie far from each other."""
        maps = {shard: self._tiles.open(plan, shard) for shard in {span.shard for span in spans}}
        ranges = []
        for span in spans:
            address = maps[span.shard].values.data_ptr()
            for cut in cuts:
                row_bytes = plan.of_tile(tile, cut.number).spec.row_bytes
                where = in_tile(plan, span, tile, cut.number)
                ranges.append((address + where.offset, span.rows * row_bytes))
        read_ahead_ranges(ranges)

    def _tile(self, plan: SitePlan, tile: int, span: Span, cut: TileUnits) -> np.ndarray:
        where = in_tile(plan, span, tile, cut.number)
        return words_of(self._tiles.view(plan.of_tile(tile, cut.number), where, units=cut.units))

    def take(self, plan: SitePlan, rows: np.ndarray, *, units: Units) -> torch.Tensor:
        """Return rows in the order given, at least one."""
        of_row = plan.tile.take(plan.places(rows)[0])
        kinds = np.unique(of_row).tolist()
        if len(kinds) == 1:
            return self._taken(plan, kinds[0], rows, units=units)
        out = empty((len(rows), *units.shape), plan.dtype.torch)
        target = words_of(out)
        for tile in kinds:
            members = np.flatnonzero(of_row == tile)
            target[members] = words_of(self._taken(plan, tile, rows[members], units=units))
        return out

    def _taken(self, plan: SitePlan, tile: int, rows: np.ndarray, *, units: Units) -> torch.Tensor:
        if not tile:
            return self._whole.take(plan, rows, units=units)
        self._io.add(requests=0, rows=len(rows), nbytes=0)
        cuts = cut_units(units, plan.tilings[tile].widths)
        first, *others = _together(cuts)
        part = self._take_tiles(plan, tile, rows, first)
        if not others:
            return part.view(len(rows), *units.shape)
        out = empty((len(rows), *units.shape), plan.dtype.torch)
        target = words_of(out.view(len(rows), units.count))
        target[:, _slots(first)] = words_of(part)
        for group in others:
            target[:, _slots(group)] = words_of(self._take_tiles(plan, tile, rows, group))
        return out

    def _take_tiles(
        self, plan: SitePlan, tile: int, rows: np.ndarray, cuts: Sequence[TileUnits]
    ) -> torch.Tensor:
        """Return the units of rows in some tiles that are alike, gathered at once."""
        chunk, place = plan.places(rows)
        parts = [plan.of_tile(tile, cut.number) for cut in cuts]
        for part in parts:
            self._tiles.check(part, chunk)
        place *= parts[0].spec.row_bytes
        # [rows, tiles]: the tiles of a row follow each other as its units do
        offsets = np.stack([part.offsets.take(chunk) for part in parts], axis=1) + place[:, None]
        shard = np.repeat(plan.shard.take(chunk), len(cuts))
        raw = self._tiles.gather(parts[0], shard, offsets.reshape(-1), units=cuts[0].units)
        return as_tensor(raw, plan.dtype.torch, (len(rows), len(cuts) * cuts[0].units.count))


def _windows(
    plan: SitePlan, spans: Sequence[Span], cuts: Sequence[TileUnits]
) -> list[Sequence[Span]]:
    """Return the spans in parts of some megabytes of tiles each, at least one."""
    width = sum(cut.units.span[1] for cut in cuts) * plan.dtype.itemsize
    ends = np.cumsum([span.rows * width for span in spans])
    bounds = np.flatnonzero(np.diff(ends // _AHEAD_BYTES)) + 1
    return [spans[a:b] for a, b in pairwise([0, *bounds.tolist(), len(spans)])]


def _together(cuts: Sequence[TileUnits]) -> list[list[TileUnits]]:
    """Return whole tiles of one width whose units follow each other together, others alone."""
    groups: list[list[TileUnits]] = []
    for cut in cuts:
        last = groups[-1][-1] if groups else None
        # of whole tiles the units are the same object
        if last is not None and last.units is cut.units and _ends(last) == _begins(cut):
            groups[-1].append(cut)
        else:
            groups.append([cut])
    return groups


def _ends(cut: TileUnits) -> int | None:
    return cut.slots.stop if isinstance(cut.slots, slice) else None


def _begins(cut: TileUnits) -> int:
    return cut.slots.start if isinstance(cut.slots, slice) else -1


def _slots(cuts: Sequence[TileUnits]) -> slice | np.ndarray:
    if len(cuts) == 1:
        return cuts[0].slots
    return slice(_begins(cuts[0]), _ends(cuts[-1]))


def _rows_of(plan: SitePlan, spans: Sequence[Span]) -> np.ndarray:
    """Return the absolute rows of spans: int64[n]."""
    firsts = [int(plan.starts[span.chunk]) + _row_in(plan, span) for span in spans]
    runs = [np.arange(row, row + s.rows) for row, s in zip(firsts, spans, strict=True)]
    return np.concatenate(runs)


def _row_in(plan: SitePlan, span: Span) -> int:
    """Return the place of the first row of a span in its chunk."""
    return (span.offset - int(plan.offsets[span.chunk])) // plan.spec.row_bytes


def alike(plan: SitePlan, spans: Sequence[Span]) -> Iterator[tuple[int, list[Span]]]:
    """Yield spans that follow each other in chunks that are cut alike: units of a tile, or 0."""
    for tile, group in groupby(spans, key=lambda span: tile_at(plan, span)):
        yield tile, list(group)


def tile_at(plan: SitePlan, span: Span) -> int:
    """Return the units of a tile in the chunk of a span; 0: its rows are whole."""
    return int(plan.tile[span.chunk]) if plan.tilings else 0


def in_tile(plan: SitePlan, span: Span, tile: int, number: int) -> Span:
    """Return where the rows of a span are in one tile."""
    of_tile = plan.of_tile(tile, number)
    offset = int(of_tile.offsets[span.chunk]) + _row_in(plan, span) * of_tile.spec.row_bytes
    return Span(span.shard, span.chunk, offset, span.rows)
