"""Which groups of rows may have one of the greatest values of a unit, by their maxima. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lazycache.codec.statistics import TOP_ROWS, ZONE_ROWS
from lazycache.writer.tiles import GROUP_ROWS, parts_of

ZONE_GROUPS = ZONE_ROWS // GROUP_ROWS
"""Groups of a whole zone."""

CROWDED = 2 * TOP_ROWS
"""Groups of a unit of which the greatest are found first."""

_GROUPS = np.arange(ZONE_GROUPS)


def group_starts(runs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the first group of every zone, and behind them how many groups there are."""
    starts: list[int] = []
    groups = 0
    for run in runs:
        stop = groups + parts_of(len(run), GROUP_ROWS)
        starts += range(groups, stop, ZONE_GROUPS)
        groups = stop
    return np.array([*starts, groups])


def within_zones(
    zones: np.ndarray, maxima: np.ndarray, starts: np.ndarray, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the groups of wanted zones whose maximum is above the least, and their units."""
    units = zones.shape[1]
    flat = np.flatnonzero(zones)
    zone = flat // units  # much faster than divmod
    unit = flat - zone * units
    start = starts[zone]
    lines, step = maxima.reshape(-1), maxima.shape[1]
    at = (start * step + unit)[:, None] + _GROUPS * step
    found = lines.take(at, mode="clip") > least[unit][:, None]
    count = starts[zone + 1] - start
    if len(count) and count.min() < ZONE_GROUPS:  # a part of a zone
        found &= count[:, None] > _GROUPS
    hit = np.flatnonzero(found)
    line = hit // ZONE_GROUPS
    return start[line] + (hit - line * ZONE_GROUPS), unit[line]


def chosen(wanted: np.ndarray, maxima: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return wanted groups and their units; where there are too many, only the greatest."""
    crowded = np.flatnonzero(_counts(wanted) > CROWDED)
    if len(crowded):
        every = slice(None) if len(crowded) == wanted.shape[1] else crowded  # much faster
        wanted[:, every] = _greatest_groups(np.ascontiguousarray(maxima[:, every].T)).T
    flat = np.flatnonzero(wanted)
    group = flat // wanted.shape[1]  # much faster than divmod
    return group, flat - group * wanted.shape[1]


def _counts(wanted: np.ndarray) -> np.ndarray:
    """Count along the first axis: much faster as bytes, as long as they do not overflow."""
    counts = np.zeros(wanted.shape[1], np.int64)
    for first in range(0, len(wanted), 255):
        part = wanted[first : first + 255].view(np.uint8)
        counts += np.add.reduce(part, axis=0, dtype=np.uint8)
    return counts


def _greatest_groups(maxima: np.ndarray) -> np.ndarray:
    """Return which groups, of units in lines, are the greatest; of equal ones, the first."""
    least = maxima.shape[1] - TOP_ROWS
    bound = np.partition(maxima, least, axis=1)[:, least, None]
    chosen: np.ndarray = maxima >= bound
    tied = np.flatnonzero(np.count_nonzero(chosen, axis=1) > TOP_ROWS)
    if len(tied):
        lines, bound = maxima[tied], bound[tied]
        above, equal = lines > bound, lines == bound
        room = TOP_ROWS - np.count_nonzero(above, axis=1)
        chosen[tied] = above | (equal & (equal.cumsum(axis=1, dtype=np.int32) <= room[:, None]))
    return chosen
