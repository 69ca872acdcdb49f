"""Means and products of deviations of two sites over the same rows, in float64, block by block.

Blocks are centred by themselves and merged by Chan's rule (Chan, Golub and LeVeque 1983), with
products of two sites where that has squares: neither many rows nor large means cost digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True, slots=True, eq=False)
class CrossMoments:
    """What is known of some rows of two sites, all in float64."""

    rows: int
    """How many."""
    mean_a: torch.Tensor
    """[units of a]"""
    mean_b: torch.Tensor
    """[units of b]"""
    aa: torch.Tensor
    """[units of a, units of a]: sums of products of deviations from the means."""
    ab: torch.Tensor
    """[units of a, units of b]"""
    bb: torch.Tensor
    """[units of b, units of b]"""

    @classmethod
    def of(cls, a: torch.Tensor, b: torch.Tensor) -> CrossMoments:
        """Return those of [rows, units of a] and [rows, units of b], of any dtype.

        Rows in which either has a value that is not finite are left out of both.
        """
        a, b = a.to(torch.float64), b.to(torch.float64)
        finite = a.isfinite().all(dim=1) & b.isfinite().all(dim=1)
        if not bool(finite.all()):
            a, b = a[finite], b[finite]
        if not len(a):
            means = a.new_zeros(a.shape[1]), b.new_zeros(b.shape[1])
        else:
            means = _mean(a), _mean(b)
        a, b = a - means[0], b - means[1]
        return cls(len(a), *means, a.T @ a, a.T @ b, b.T @ b)

    def merged(self, other: Self) -> CrossMoments:
        """Return those of the rows of both. Changes the products of this one."""
        if not self.rows or not other.rows:
            return self if self.rows else other
        rows = self.rows + other.rows
        share = other.rows / rows
        a, b = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        weight = self.rows * share
        return CrossMoments(
            rows,
            self.mean_a + a * share,
            self.mean_b + b * share,
            self.aa.add_(other.aa).addr_(a, a, alpha=weight),
            self.ab.add_(other.ab).addr_(a, b, alpha=weight),
            self.bb.add_(other.bb).addr_(b, b, alpha=weight),
        )


def _mean(x: torch.Tensor) -> torch.Tensor:
    # as a distance from a row: what is constant has no deviation at all
    mean: torch.Tensor = x[0] + (x - x[0]).mean(dim=0)
    return mean
