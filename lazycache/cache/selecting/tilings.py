"""Where the tiles of a site's shards lie, and which units of a row are in which. Pure.

A tile of a chunk is a row-major matrix of some units. So a tile of a site, over all chunks that are
cut alike, is what a site is: a plan of its own, read as rows are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from lazycache.cache.selecting.plan_checks import ALIGNMENT, Placed
from lazycache.cache.selecting.units import Units, all_units, of_map, places_of
from lazycache.codec.dtypes import by_name
from lazycache.codec.tiles import MOST_TILES, tile_widths, units_of
from lazycache.errors import CorruptShardError
from lazycache.types import RAGGED, ChunkRef, ShardRef, SiteSpec


@dataclass(frozen=True, slots=True, eq=False)
class Tiling:
    """All chunks of a site that are cut into tiles of the same units."""

    tile: int
    """Units of a tile."""
    widths: tuple[int, ...]
    """Units of each tile of a row."""
    offsets: np.ndarray
    """int64[tiles, chunks of the site]: byte offset of each tile; -1 of chunks that are others."""
    crcs: np.ndarray
    """int64[tiles, chunks of the site]: CRC-32 of its bytes."""


Tilings = Mapping[int, Tiling]
"""Units of a tile to the chunks that are cut so; empty of most sites."""

NO_TILES: Tilings = MappingProxyType({})
"""Of a site whose rows are all whole."""


def tilings_of(spec: SiteSpec, placed: Sequence[Placed], *, shard: np.ndarray) -> Tilings:
    """Return the tilings of a site; `shard` has the place of each chunk's shard: int64[chunks].

    Raises:
        CorruptShardError: tiles that cannot be what the log says of them.
    """
    tiles = {p.ref.tile for p in placed if p.ref.tile is not None}
    if not tiles:
        return NO_TILES
    return {tile: _tiling(spec, placed, tile, shard=shard) for tile in sorted(tiles)}


def _tiling(spec: SiteSpec, placed: Sequence[Placed], tile: int, *, shard: np.ndarray) -> Tiling:
    units = units_of(spec)
    first = next(p.ref for p in placed if p.ref.tile == tile)
    if spec.layout == RAGGED or not 0 < tile < units or -(-units // tile) > MOST_TILES:
        raise _damaged(spec, first, f"has tiles of {tile:,} of the {units:,} units of a row")
    widths = tile_widths(units, tile)
    sizes = np.array(widths, dtype=np.int64) * by_name(spec.dtype).itemsize
    offsets = np.full((2, len(shard), len(widths)), -1, dtype=np.int64)
    for number in (i for i, p in enumerate(placed) if p.ref.tile == tile):
        ref, at = placed[number].ref, np.flatnonzero(shard == number)
        chunks = [chunk for chunk in ref.chunks if chunk.rows]
        said = {len(column) for c in chunks for column in (c.tile_offsets, c.tile_crcs)}
        if said != {len(widths)}:
            raise _damaged(spec, ref, f"has chunks without all of {len(widths)} tiles")
        offsets[0, at] = [chunk.tile_offsets for chunk in chunks]
        offsets[1, at] = [chunk.tile_crcs for chunk in chunks]
        _check_places(spec, ref, chunks, offsets[0, at], sizes)
    places, crcs = (np.ascontiguousarray(part.T) for part in offsets)
    return Tiling(tile, tuple(widths), places, crcs)


def _check_places(
    spec: SiteSpec,
    ref: ShardRef,
    chunks: Sequence[ChunkRef],
    offsets: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Refuse tiles that are not in the file one behind the other."""
    rows = np.array([chunk.rows for chunk in chunks], dtype=np.int64)
    starts = np.array([chunk.value_offset for chunk in chunks], dtype=np.int64)
    # divided and not multiplied: rows times bytes may be more than int64 holds
    room = np.column_stack([offsets[:, 1:], np.full(len(rows), ref.length)]) - offsets
    wrong = (rows[:, None] > room // sizes) | (offsets % ALIGNMENT != 0)
    if wrong.any() or (offsets[:, 0] != starts).any():
        raise _damaged(spec, ref, "has tiles that are not in it one behind the other")


def _damaged(spec: SiteSpec, ref: ShardRef, what: str) -> CorruptShardError:
    return CorruptShardError(
        f"shard {ref.path} of site {spec.name!r} {what}, which cannot be: the log is damaged."
    )


@dataclass(frozen=True, slots=True, eq=False)
class TileUnits:
    """The units of one tile that are read."""

    number: int
    """Which tile of the row."""
    units: Units
    """Which units of the tile: of one dimension."""
    slots: slice | np.ndarray
    """Their places among all units that are read, row-major."""


@lru_cache(maxsize=16)
def cut_units(units: Units, widths: tuple[int, ...]) -> tuple[TileUnits, ...]:
    """Return the units that are read, tile by tile. Cached, since a read asks for each chunk.

    Example:
        >>> from lazycache.cache.selecting.units import select
        >>> [(c.number, c.units.start, c.slots) for c in cut_units(select((5,), (3,)), (2, 2, 1))]
        [(1, 1, slice(0, 1, None))]
    """
    places = places_of(units)
    number, place = np.divmod(places, widths[0])
    found = []
    for tile in np.unique(number).tolist():
        slots = np.flatnonzero(number == tile)
        inside = place[slots]
        width = widths[tile]
        whole = len(inside) == width and bool((inside == np.arange(width)).all())
        chosen = all_units((width,)) if whole else of_map((width,), inside)
        found.append(TileUnits(tile, chosen, _as_slice(slots)))
    return tuple(found)


def tile_gap(max_gap: int, *, tiles: int) -> int:
    """Return the bytes between ranges that are fetched as one, of so many tiles of a row.

    The tiles of a row are as far apart as each other, and are asked for at once. With a gap that is
    worth a request between each two of them, one row would cost all rows.

    Example:
        >>> tile_gap(1 << 20, tiles=1), tile_gap(1 << 20, tiles=16)
        (1048576, 65536)
    """
    return max_gap // max(1, tiles)


def _as_slice(slots: np.ndarray) -> slice | np.ndarray:
    first, last = int(slots[0]), int(slots[-1])
    return slice(first, last + 1) if last - first == len(slots) - 1 else slots
