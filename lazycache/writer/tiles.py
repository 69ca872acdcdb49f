"""Rows as they come to parts that stay in the processor's cache. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lazycache.codec.statistics import ZONE_ROWS

GROUP_ROWS = 8
"""Rows whose greatest value says whether they are worth a look; zones have whole groups."""

_VALUES = 1 << 17  # of a tile: as float64 they are 1 MiB and stay in the L2 cache
_WIDTH = 1024  # units of a tile
_FEW_BYTES = 1 << 20  # of a chunk in pieces that are joined, so that tiles are not tiny


class Tile(NamedTuple):
    """A part of a chunk: whole zones, or a part of one, of some units."""

    values: np.ndarray
    """[rows, units of the tile]: a view."""
    zones: slice
    """Which zones of the chunk; one of which the chunk has a part counts too."""
    groups: slice
    """Which groups of the chunk."""
    units: slice
    """Which units."""


def runs(pieces: Sequence[np.ndarray], *, first: int) -> list[np.ndarray]:
    """Return the rows of a chunk as arrays that are whole zones, or lie within one.

    Args:
        pieces: [rows, units] each, in order.
        first: Rows that the first zone has already.

    Cost: copies only the zones that lie in several pieces; of a small chunk, all.

    Example:
        >>> pieces = [np.zeros((300, 1024)), np.zeros((100, 1024))]
        >>> [len(run) for run in runs(pieces, first=28)]
        [100, 128, 128, 44]
    """
    if len(pieces) > 1 and sum(piece.nbytes for piece in pieces) < _FEW_BYTES:
        pieces = [np.concatenate(pieces)]
    found: list[np.ndarray] = []
    zone: list[np.ndarray] = []
    missing = ZONE_ROWS - first
    for piece in pieces:
        row = 0
        while row < len(piece):
            whole = (len(piece) - row) // ZONE_ROWS * ZONE_ROWS
            taken = whole if whole and missing == ZONE_ROWS else min(missing, len(piece) - row)
            zone.append(piece[row : row + taken])
            row, missing = row + taken, max(0, missing - taken)
            if not missing:
                found.append(_joined(zone))
                zone, missing = [], ZONE_ROWS
    return [*found, _joined(zone)] if zone else found


def tiles(run: np.ndarray, *, zone: int, group: int) -> Iterator[Tile]:
    """Yield the parts of a run that are computed with at once.

    Args:
        run: [rows, units].
        zone: Number of its first zone in the chunk.
        group: Number of its first group.
    """
    count, units = run.shape
    parts = -(-units // _WIDTH)
    width = -(-units // parts)
    rows = max(ZONE_ROWS, _VALUES // units // ZONE_ROWS * ZONE_ROWS)
    for row in range(0, count, rows):
        stop = min(row + rows, count)
        zones = slice(zone + row // ZONE_ROWS, zone + parts_of(stop, ZONE_ROWS))
        groups = slice(group + row // GROUP_ROWS, group + parts_of(stop, GROUP_ROWS))
        for left in range(0, units, width):
            columns = slice(left, min(left + width, units))
            yield Tile(run[row:stop, columns], zones, groups, columns)


def parts_of(rows: int, size: int) -> int:
    """Return how many zones or groups rows are; the last one may have fewer."""
    return -(-rows // size)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
