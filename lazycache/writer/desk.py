"""Where tiles are computed with: memory and views of it that all tiles of one shape share.

A tile takes a tenth of a millisecond, so that what Python does between numpy's calls counts: views
are cut once for all tiles of a shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lazycache.codec.statistics import ZONE_ROWS
from lazycache.writer.scratch import scratch
from lazycache.writer.tiles import GROUP_ROWS, parts_of

_FOLD = 512  # numbers that numpy should have to add at once
_MOST_FOLDED = 16


class Desk:
    """Room for one tile at a time, and what its zones are reduced to. For one thread.

    Args:
        rows: Of a tile.
        units: Of a tile.
        zones: Parts of equal length that the rows are.
        dtype: Of the numbers.

    Example:
        >>> desk, least = Desk(4, 3, 2, np.dtype("float32")), np.empty((2, 3), np.float32)
        >>> desk.reduce(np.minimum, desk.zoned(np.arange(12, dtype="f4").reshape(4, 3)), least)
        >>> least
        array([[0., 1., 2.],
               [6., 7., 8.]], dtype=float32)
    """

    def __init__(self, rows: int, units: int, zones: int, dtype: np.dtype) -> None:
        self._shape = zones, rows // zones, units
        folds = _folds(rows // zones, units)
        self._folded = None if folds == 1 else (zones, rows // zones // folds, folds * units)
        self._parts = zones, folds, units
        self.numbers = scratch("numbers", (rows, units), dtype)
        """[rows, units]: room for numbers."""
        self.wide = scratch("float64", self._shape, np.dtype(np.float64))
        """float64[zones, rows of each, units]: room for wider ones."""
        self._few: tuple[np.ndarray, np.ndarray] | None = None
        if folds == 1 and rows // zones % GROUP_ROWS == 0:
            few = scratch("few", (2, rows // GROUP_ROWS, units), np.dtype(np.float32))
            self._few = few, few.reshape(2, zones, -1, units)

    def zoned(self, values: np.ndarray) -> np.ndarray:
        """Return a view [zones, rows of each, units] of a tile."""
        return values.reshape(self._shape)

    def reduce(self, ufunc: np.ufunc, zoned: np.ndarray, out: np.ndarray) -> None:
        """Fill in what the rows of each zone are reduced to."""
        if self._folded is not None and zoned.flags.c_contiguous:
            found = ufunc.reduce(zoned.reshape(self._folded), axis=1)
            zoned = found.reshape(self._parts)
        ufunc.reduce(zoned, axis=1, out=out)

    @property
    def has_groups(self) -> bool:
        """Whether the rows of each zone are whole groups, and wide enough for `moments`."""
        return self._few is not None

    def moments(self, values: np.ndarray, out: np.ndarray) -> None:
        """Fill in sums and sums of squares, of groups as float32 and of those as float64.

        Args:
            values: float32[rows, units].
            out: float64[2, zones, units].
        """
        assert self._few is not None, "has_groups"
        (sums, squares), zoned = self._few
        groups = values.reshape(len(sums), GROUP_ROWS, values.shape[1])
        np.add.reduce(groups, axis=1, out=sums)
        np.einsum("gij,gij->gj", groups, groups, out=squares)
        np.add.reduce(zoned, axis=2, dtype=np.float64, out=out)

    def squares(self, zoned: np.ndarray, out: np.ndarray) -> None:
        """Fill in the sums of squares over the rows of each zone."""
        if self._folded is None or not zoned.flags.c_contiguous:
            np.einsum("zij,zij->zj", zoned, zoned, out=out)
            return
        wide = zoned.reshape(self._folded)
        found = np.einsum("zij,zij->zj", wide, wide)
        np.add.reduce(found.reshape(self._parts), axis=1, out=out)


def group_reduced(ufunc: np.ufunc, values: np.ndarray, out: np.ndarray) -> None:
    """Fill in what every `GROUP_ROWS` rows are reduced to; the last group may have fewer.

    Example:
        >>> maxima = np.empty((2, 1))
        >>> group_reduced(np.maximum, np.arange(9.0)[:, None], maxima)
        >>> maxima[:, 0]
        array([7., 8.])
    """
    whole, units = len(values) // GROUP_ROWS, values.shape[1]
    groups = values[: whole * GROUP_ROWS].reshape(whole, GROUP_ROWS, units)
    ufunc.reduce(groups, axis=1, out=out[:whole])
    if whole < len(out):
        ufunc.reduce(values[whole * GROUP_ROWS :], axis=0, out=out[whole])


def zone_reduced(
    ufunc: np.ufunc, groups: np.ndarray, runs: Sequence[np.ndarray], out: np.ndarray
) -> None:
    """Fill in what the groups [groups, units] of each zone are reduced to.

    Example:
        >>> zones = np.empty((2, 1))
        >>> runs = [np.empty((128, 1)), np.empty((8, 1))]
        >>> zone_reduced(np.maximum, np.arange(17.0)[:, None], runs, zones)
        >>> zones[:, 0]
        array([15., 16.])
    """
    group = zone = 0
    for run in runs:
        count = parts_of(len(run), GROUP_ROWS)
        each = min(count, ZONE_ROWS // GROUP_ROWS)  # a run is whole zones, or within one
        part = groups[group : group + count].reshape(-1, each, groups.shape[1])
        ufunc.reduce(part, axis=1, out=out[zone : zone + len(part)])
        group, zone = group + count, zone + len(part)


def _folds(rows: int, units: int) -> int:
    """Rows that are computed with as if they were one: rows of few numbers cost more."""
    folds = 1
    while rows == ZONE_ROWS and folds < _MOST_FOLDED and 2 * folds * units <= _FOLD:
        folds *= 2
    return folds
