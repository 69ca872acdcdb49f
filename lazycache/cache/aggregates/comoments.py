"""How units move with a number of each row: co-moments of blocks of rows, merged by Chan's rule.

Chan, Golub and LeVeque, Algorithms for computing the sample variance (1983), with the sum of
products beside the sums of squares. Within a block, values are taken as distances from a value of
the block; means of blocks are kept as distances from the first block's: a mean that is large beside
the deviations costs no digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from lazycache.cache.aggregates.reduce import tiles


@dataclass(frozen=True, slots=True, eq=False)
class Comoments:
    """Numbers of some rows, each float64[units]: of the rows in which a unit is finite."""

    count: torch.Tensor
    """How many rows."""
    shift: torch.Tensor
    """What `x` is a distance from."""
    x: torch.Tensor
    """Means of the units, as distances."""
    y: torch.Tensor
    """Means of the number of each row."""
    xx: torch.Tensor
    """Sums of squared deviations of the units."""
    yy: torch.Tensor
    """Sums of squared deviations of the numbers."""
    xy: torch.Tensor
    """Sums of products of both deviations."""

    def merged(self, other: Self) -> Comoments:
        """Return the numbers of the rows of both."""
        count = self.count + other.count
        share = torch.where(count > 0, other.count / count.clamp(min=1), 0.0)
        # a side without rows has no shift that counts
        shift = torch.where(self.count > 0, self.shift, other.shift)
        mine = torch.where(self.count > 0, self.x, 0.0)
        theirs = torch.where(other.count > 0, (other.shift - shift) + other.x, mine)
        dx, dy = theirs - mine, torch.where(other.count > 0, other.y - self.y, 0.0)
        dx, dy = torch.where(self.count > 0, dx, 0.0), torch.where(self.count > 0, dy, 0.0)
        weight = self.count * share
        return Comoments(
            count=count,
            shift=shift,
            x=torch.where(self.count > 0, mine + dx * share, theirs),
            y=torch.where(self.count > 0, self.y + dy * share, other.y),
            xx=self.xx + other.xx + dx.square() * weight,
            yy=self.yy + other.yy + dy.square() * weight,
            xy=self.xy + other.xy + dx * dy * weight,
        )

    def pearson(self, spread: float) -> torch.Tensor:
        """Return Pearson's r: float64[units], nan where a side is constant.

        `spread` is how far the numbers lie from their mean at most: what they differ less than the
        rounding of that is no difference.
        """
        same = self.yy <= self.count * (1e-14 * spread) ** 2
        found = self.xy / (self.xx.sqrt() * self.yy.sqrt())
        return found.clamp(-1.0, 1.0).masked_fill((self.xx == 0) | same, torch.nan)


def comoments(matrix: torch.Tensor, numbers: torch.Tensor) -> Comoments:
    """Return the co-moments of [rows, units] and float64[rows], at least one row.

    The numbers are finite, and best centred; of the matrix, values that are not finite are left
    out, each unit for itself.

    Example:
        >>> x = torch.tensor([[0.0, 5.0], [2.0, torch.inf], [4.0, 3.0]])
        >>> found = comoments(x, torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
        >>> found.count.tolist(), found.pearson(1.0).tolist()
        ([3.0, 2.0], [1.0, -1.0])
    """
    found = _of_finite(matrix, numbers)
    # NaN and infinities go through into the sums
    return found if bool(found.xx.isfinite().all()) else _of_some(matrix, numbers)


def _of_finite(matrix: torch.Tensor, numbers: torch.Tensor) -> Comoments:
    first = next(iter(tiles(matrix))).to(torch.float64)
    # of what is constant that very value, so that its deviations are exactly zero
    constant = (first == first[0]).all(0)
    shift = torch.where(constant, first[0], first.mean(0))
    by = torch.stack([torch.ones_like(numbers), numbers])
    sums = torch.zeros(2, matrix.shape[1], dtype=torch.float64, device=matrix.device)
    # one tile's memory for all of them: it stays in the processor's cache
    squares, room, done = sums.new_zeros(matrix.shape[1]), torch.empty_like(first), 0
    for tile in tiles(matrix):
        weights = by[:, done : done + len(tile)]
        near = room[: len(tile)].copy_(tile).sub_(shift)
        sums += weights @ near
        squares += weights[0] @ near.square_()
        done += len(tile)
    count = torch.full_like(squares, len(matrix))
    y = numbers.mean()
    return _centred(count, shift, sums, squares, y=y, yy=(numbers - y).square().sum())


def _of_some(matrix: torch.Tensor, numbers: torch.Tensor) -> Comoments:
    wide = matrix.to(torch.float64)
    there = wide.isfinite()
    # the first finite value of each unit
    shift = wide.gather(0, there.long().argmax(0)[None])[0].nan_to_num(0.0, 0.0, 0.0)
    near = torch.where(there, wide - shift, 0.0)
    count = there.double().sum(0)
    y = (numbers @ there.double()) / count.clamp(min=1)
    apart = torch.where(there, numbers[:, None] - y, 0.0)
    sums = torch.stack([near.sum(0), numbers @ near])
    squares = near.square().sum(0)
    return _centred(count, shift, sums, squares, y=y, yy=apart.square().sum(0))


def _centred(
    count: torch.Tensor,
    shift: torch.Tensor,
    sums: torch.Tensor,
    squares: torch.Tensor,
    *,
    y: torch.Tensor,
    yy: torch.Tensor,
) -> Comoments:
    """Return co-moments of sums of distances, of their products with the numbers, and squares."""
    x = sums[0] / count.clamp(min=1)
    xx = (squares - sums[0] * x).clamp(min=0)
    return Comoments(count, shift, x, y.expand_as(x), xx, yy.expand_as(x), sums[1] - y * sums[0])
