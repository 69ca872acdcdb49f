"""Rows cut into tiles: groups of units that lie together, for whoever reads few units of many rows.

A tile of a chunk is a plain row-major matrix of some units, so everything that reads rows reads
tiles; a row is its tiles one behind the other. Pure. The layout is described in `docs/format`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lazycache.codec.dtypes import by_name
from lazycache.errors import CaptureError
from lazycache.types import RAGGED, SiteSpec

ROW = "row"
"""The layout of rows that are not cut."""

MOST_TILES = 4096
"""Tiles of a row: each is a column of the file, and two numbers for every chunk in the log."""

_LAYOUT = re.compile(r"tile:([1-9][0-9]{0,8})\Z")


def tile_of(layout: object) -> int | None:
    """Return the units of a tile that a layout asks for; None for rows.

    Raises:
        CaptureError: it is no layout.

    Example:
        >>> tile_of("tile:64"), tile_of("row")
        (64, None)
    """
    found = _LAYOUT.match(layout) if isinstance(layout, str) else None
    if found is None and layout != ROW:
        raise CaptureError(
            f"layout {layout!r:.60} is not known: 'row', or tiles of some units of a row: 'tile:64'"
            " or 'tile:256'."
        )
    return None if found is None else int(found[1])


def layout_of(tile: int | None) -> str:
    """Return what a shard calls its layout.

    Example:
        >>> layout_of(64)
        'tile:64'
    """
    return ROW if tile is None else f"tile:{tile}"


def fitting_tile(spec: SiteSpec, tile: int | None) -> int | None:
    """Return in which tiles shards of a site can be, if these are asked for; None: in rows only.

    Rows that differ in width, or that are no wider than a tile, are not cut.

    Raises:
        CaptureError: a row would have too many tiles.

    Example:
        >>> spec = SiteSpec("mlp_act_3", "tokens", "bfloat16", (3072,), 6144)
        >>> fitting_tile(spec, 64), fitting_tile(spec, 4096)
        (64, None)
    """
    if tile is None or spec.layout == RAGGED or units_of(spec) <= tile:
        return None
    if (count := -(-units_of(spec) // tile)) > MOST_TILES:
        raise CaptureError(
            f"site {spec.name!r}: rows of {units_of(spec):,} units would be {count:,} tiles of "
            f"{tile}; {MOST_TILES:,} are the most. Use larger ones: "
            f"'tile:{-(-units_of(spec) // MOST_TILES)}' or more."
        )
    return tile


def units_of(spec: SiteSpec) -> int:
    """Return how many units a row has; of a ragged site, one of width 1."""
    return spec.row_bytes // by_name(spec.dtype).itemsize


def tile_widths(units: int, tile: int) -> list[int]:
    """Return the units of each tile of a row.

    Example:
        >>> tile_widths(150, 64)
        [64, 64, 22]
    """
    return [min(tile, units - first) for first in range(0, units, tile)]


def tile_names(value: str, units: int, tile: int) -> list[str]:
    """Return the names of the columns of tiles: by their first unit, so that names sort.

    Example:
        >>> tile_names("value", 150, 64)
        ['value_0000', 'value_0064', 'value_0128']
    """
    digits = max(4, len(str(units - 1)))
    return [f"{value}_{first:0{digits}}" for first in range(0, units, tile)]


def cut_rows(
    pieces: Sequence[memoryview], *, row_bytes: int, sizes: Sequence[int]
) -> list[memoryview]:
    """Return rows as tiles: of each tile its bytes, row-major.

    Args:
        pieces: the rows' bytes in order, in as many pieces as they happen to be in.
        row_bytes: bytes of a row.
        sizes: bytes of a row in each tile; together `row_bytes`.

    Cost: one copy of the values; pieces that begin or end within a row are joined first.

    Example:
        >>> [bytes(tile) for tile in cut_rows([memoryview(b"abcABC")], row_bytes=3, sizes=[2, 1])]
        [b'abAB', b'cC']
    """
    if any(piece.nbytes % row_bytes for piece in pieces):
        pieces = [memoryview(b"".join(pieces))]
    rows = sum(piece.nbytes for piece in pieces) // row_bytes
    out = np.empty(rows * row_bytes, dtype=np.uint8)
    sources = [np.frombuffer(piece, np.uint8).reshape(-1, row_bytes) for piece in pieces]
    tiles, left = [], 0
    for size in sizes:
        tile = out[left * rows : (left + size) * rows]
        _copy_columns(sources, slice(left, left + size), tile.reshape(rows, size))
        tiles.append(tile.data)
        left += size
    return tiles


def join_tiles(tiles: Sequence[memoryview], *, rows: int) -> memoryview:
    """Return tiles as rows: the inverse of `cut_rows`. Cost: one copy of the values.

    Example:
        >>> bytes(join_tiles([memoryview(b"abAB"), memoryview(b"cC")], rows=2))
        b'abcABC'
    """
    parts = [np.frombuffer(tile, np.uint8).reshape(rows, -1) for tile in tiles]
    out = np.empty((rows, sum(part.shape[1] for part in parts)), dtype=np.uint8)
    left = 0
    for part in parts:
        _copy(part, out[:, left : left + part.shape[1]])
        left += part.shape[1]
    return out.reshape(-1).data


def _copy_columns(sources: Sequence[np.ndarray], columns: slice, out: np.ndarray) -> None:
    row = 0
    for source in sources:
        _copy(source[:, columns], out[row : row + len(source)])
        row += len(source)


def _copy(source: np.ndarray, out: np.ndarray) -> None:
    """Copy bytes of rows; a row of each is one piece of memory."""
    # one item for each row: numpy then moves it in one call, not byte for byte
    kind = f"|V{source.shape[1]}"
    np.copyto(out.view(kind), source.view(kind))
