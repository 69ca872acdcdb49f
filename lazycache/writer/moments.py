"""Counts, sums and squared deviations of rows, tile by tile, in float64. For one thread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lazycache.writer.scratch import scratch

_WIDTH = 1024  # units at a time: a tile of them as float64 is 1 MiB and stays in the L2 cache


@dataclass(frozen=True, slots=True, eq=False)
class BlockNumbers:
    """What is kept of some consecutive rows; every array is [units]."""

    rows: int
    """How many."""
    nans: np.ndarray
    """int32: values that are NaN."""
    pos_infs: np.ndarray
    """int32: values that are +Inf."""
    neg_infs: np.ndarray
    """int32: values that are -Inf."""
    min: np.ndarray
    """The least finite one; +Inf where there is none."""
    max: np.ndarray
    """The greatest finite one; -Inf where there is none."""
    sum: np.ndarray
    """float64 or int64: the sum of the finite ones."""
    mean: np.ndarray
    """float64: their mean, NaN where there is none."""
    m2: np.ndarray
    """float64: the sum of their squared deviations from the mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Clean:
    """A tile whose numbers are all finite, or that knows which are not."""

    values: np.ndarray
    """[rows, units]; where not finite, unspecified."""
    finite: np.ndarray | None
    """bool[rows, units]; None: all are."""

    def filled(self, number: float) -> np.ndarray:
        """Return the values with what is not finite replaced."""
        if self.finite is None:
            return self.values
        return np.where(self.finite, self.values, self.values.dtype.type(number))


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """Moments of one tile; every array is [units]."""

    count: np.ndarray
    sum: np.ndarray
    mean: np.ndarray
    m2: np.ndarray


class Moments:
    """Gathers the moments of a block: each tile by itself in two steps, then all merged (Chan).

    So the squared deviations lose nothing where the mean is large, and nothing is read twice.

    Example:
        >>> moments = Moments(1)
        >>> for tile in ([[1e9]], [[1e9 + 1], [float("nan")]]):
        ...     _ = moments.add(np.array(tile))
        >>> low, high = np.array([1e9]), np.array([1e9 + 1])
        >>> numbers = moments.close(low, high)
        >>> numbers.nans, numbers.mean - 1e9, numbers.m2
        (array([1], dtype=int32), array([0.5]), array([0.5]))
    """

    def __init__(self, units: int) -> None:
        self._units = units
        self._tiles: list[_Tile] = []
        self._odd = np.zeros((3, units), np.int32)  # NaN, +Inf, -Inf
        self.rows = 0
        """Rows of the block so far."""

    def add(self, tile: np.ndarray) -> Clean:
        """Take the rows of a tile; return it with its finite values told apart.

        Cost: four passes over a tile in the cache. Only if a sum is not finite are the values
        themselves looked at.
        """
        self.rows += len(tile)
        exact = _integer_sums(tile)
        clean = Clean(tile, None)
        with np.errstate(all="ignore"):  # Inf - Inf; and sums of float64 may overflow, as in torch
            moments = self._of(clean, exact)
            if exact is None and not np.isfinite(moments.sum.sum()):
                clean = self._told_apart(tile)
                moments = self._of(clean, exact)
        self._tiles.append(moments)
        return clean

    def close(self, low: np.ndarray, high: np.ndarray) -> BlockNumbers:
        """Return the numbers of the block, and begin another.

        Args:
            low: Its least finite values.
            high: Its greatest ones.
        """
        tiles, self._tiles = self._tiles, []
        rows, self.rows = self.rows, 0
        odd, self._odd = self._odd, np.zeros_like(self._odd)
        with np.errstate(all="ignore"):
            merged = _merged(tiles)
        return BlockNumbers(
            rows, odd[0], odd[1], odd[2], low, high, merged.sum, merged.mean, merged.m2
        )

    def _of(self, clean: Clean, exact: np.ndarray | None) -> _Tile:
        tile, finite = clean.values, clean.finite
        count = np.full(self._units, len(tile)) if finite is None else finite.sum(axis=0)
        sums, mean, m2 = np.empty((3, self._units))
        for at in range(0, self._units, _WIDTH):
            part = slice(at, at + _WIDTH)
            wide = _wide(tile[:, part])
            if finite is not None:
                wide[~finite[:, part]] = 0.0
            np.add.reduce(wide, axis=0, out=sums[part])
            np.divide(sums[part], count[part], out=mean[part])
            wide -= mean[part]
            if finite is not None:
                wide[~finite[:, part]] = 0.0
            np.einsum("ij,ij->j", wide, wide, out=m2[part])
        return _Tile(count, sums if exact is None else exact, mean, m2)

    def _told_apart(self, tile: np.ndarray) -> Clean:
        finite = np.isfinite(tile)
        if finite.all():
            return Clean(tile, None)
        odd = np.stack([np.isnan(tile), np.isposinf(tile), np.isneginf(tile)])
        self._odd += odd.sum(axis=1, dtype=np.int32)
        return Clean(tile, finite)


def _wide(tile: np.ndarray) -> np.ndarray:
    """Return a tile as float64, in memory that is used again."""
    wide = scratch("float64", tile.shape, np.dtype("float64"))
    np.copyto(wide, tile, casting="unsafe")  # uint64 to float64 rounds
    return wide


def _integer_sums(tile: np.ndarray) -> np.ndarray | None:
    """Sums of integers modulo 2**64; None for floats."""
    if tile.dtype.kind == "f":
        return None
    sums: np.ndarray = np.add.reduce(tile.view(np.int64), axis=0)
    return sums


def _merged(tiles: list[_Tile]) -> _Tile:
    """Merge the moments of tiles of different rows (Chan)."""
    counts = np.stack([tile.count for tile in tiles])
    means = np.stack([tile.mean for tile in tiles])
    means[counts == 0] = 0.0
    count = counts.sum(axis=0)
    mean = (counts * means).sum(axis=0) / count
    between = counts * (means - mean) ** 2
    between[:, count == 0] = 0.0
    m2 = np.stack([tile.m2 for tile in tiles]).sum(axis=0) + between.sum(axis=0)
    return _Tile(count, np.stack([tile.sum for tile in tiles]).sum(axis=0), mean, m2)
