"""Rows of sites of which some shards are cut into tiles, from a store in the distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch

from lazycache.cache.files.fetched_shards import FetchedShards
from lazycache.cache.files.gather import rows_of_bytes, words_of
from lazycache.cache.files.shards import verify
from lazycache.cache.files.tiled_shards import in_tile, tile_at
from lazycache.cache.selecting.plan import Rows, SitePlan, Span, as_array
from lazycache.cache.selecting.tilings import TileUnits, cut_units, tile_gap
from lazycache.cache.selecting.units import Units
from lazycache.storage.known_files import KnownFiles
from lazycache.storage.ranges import bridged
from lazycache.types import IoCounters


class FetchedTiles(FetchedShards):
    """Shards behind a store, in rows or in tiles.

    Of a tile the rows that are wanted are read from the first unit that is wanted to the last: rows
    of a tile are narrow. Tiles lie one behind the other, so whole rows are one request as well.
    """

    def __init__(self, files: KnownFiles, io: IoCounters, *, check: bool, max_gap: int) -> None:
        super().__init__(files, io, check=check, max_gap=max_gap)
        # its own: which tiles were compared is not which chunks of rows were
        self._tiles = FetchedShards(files, io, check=check, max_gap=max_gap)

    def _bytes(self, plan: SitePlan, spans: Sequence[Span], units: Units) -> int:
        """Return about how much is fetched for spans of one shard, with the gaps between them."""
        tile = tile_at(plan, spans[0])  # the same of all: they are of one shard
        if not tile:
            return super()._bytes(plan, spans, units)
        tiling = plan.tilings[tile]
        cuts = cut_units(units, tiling.widths)
        if not cuts:
            return 0
        chunks, rows, offsets = np.array([(s.chunk, s.rows, s.offset) for s in spans]).T
        places = (offsets - plan.offsets[chunks]) // plan.spec.row_bytes
        # [tiles, spans]
        sizes = np.array([[tiling.widths[cut.number]] for cut in cuts]) * plan.dtype.itemsize
        starts = tiling.offsets[[cut.number for cut in cuts]][:, chunks] + places * sizes
        order = np.argsort(starts, axis=None)
        begins, nbytes = starts.reshape(-1)[order], (rows * sizes).reshape(-1)[order]
        gaps = begins[1:] - begins[:-1] - nbytes[:-1]
        near = bridged(gaps, max_gap=tile_gap(self._max_gap, tiles=len(cuts)))
        return int(nbytes.sum() + gaps[near].sum())

    def _fill(
        self, plan: SitePlan, spans: Sequence[Span], *, units: Units, out: torch.Tensor
    ) -> None:
        tile = tile_at(plan, spans[0])
        if not tile:
            super()._fill(plan, spans, units=units, out=out)
        elif out.numel():
            cuts = cut_units(units, plan.tilings[tile].widths)
            self._fill_tiles(plan, tile, spans, cuts, out=out.view(len(out), units.count))

    def _fill_tiles(
        self,
        plan: SitePlan,
        tile: int,
        spans: Sequence[Span],
        cuts: Sequence[TileUnits],
        *,
        out: torch.Tensor,
    ) -> None:
        chunks, itemsize = sorted({span.chunk for span in spans}), out.element_size()
        for cut in cuts:
            self._tiles.check(plan.of_tile(tile, cut.number), chunks)
        pieces = [
            (cut, plan.of_tile(tile, cut.number), in_tile(plan, span, tile, cut.number), row)
            for cut in cuts
            for span, row in zip(
                spans, accumulate((s.rows for s in spans), initial=0), strict=False
            )
        ]
        ranges = [_bytes_of(span, of_tile, cut) for cut, of_tile, span, _ in pieces]
        self._io.add(requests=0, rows=len(out), nbytes=0)
        ref, target = plan.shards[spans[0].shard], words_of(out)
        max_gap = tile_gap(self._max_gap, tiles=len(cuts))
        for i, part in self._fetched(ref, ranges, max_gap=max_gap):
            cut, of_tile, span, row = pieces[i]
            if len(part) == of_tile.nbytes[span.chunk]:
                verify(of_tile, span.chunk, part)
            target[row : row + span.rows, cut.slots] = rows_of_bytes(
                part, itemsize=itemsize, rows=span.rows,
                row_elements=of_tile.spec.shape[0], units=cut.units, skip=cut.units.span[0],
            )  # fmt: skip

    def checks(self, plan: SitePlan, rows: Rows, units: Units) -> Iterator[tuple[SitePlan, int]]:
        """Yield what `check` would read for these rows: plans of rows or of a tile, and chunks."""
        if not plan.tilings:
            yield from ((plan, chunk) for chunk in self.unchecked(plan, rows))
            return
        numbers = as_array(rows)
        of_row = plan.tile.take(plan.places(numbers)[0])
        yield from ((plan, chunk) for chunk in self.unchecked(plan, numbers[of_row == 0]))
        for tile, tiling in plan.tilings.items():
            for cut in cut_units(units, tiling.widths):
                part = plan.of_tile(tile, cut.number)
                left = self._tiles.unchecked(part, numbers[of_row == tile])
                yield from ((part, chunk) for chunk in left)


def _bytes_of(span: Span, of_tile: SitePlan, cut: TileUnits) -> tuple[int, int]:
    """Return the bytes from the first unit that is wanted to the last."""
    size, (first, last) = of_tile.dtype.itemsize, cut.units.span
    stop = span.offset + (span.rows - 1) * of_tile.spec.row_bytes + last * size
    return span.offset + first * size, stop
