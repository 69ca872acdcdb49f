"""What is known of rows without reading them: numbers that were stored when they were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from lazycache.cache.reading.ordering import comparable, original

UNSURE = ("all", "count_nonzero")
"""Reductions that the numbers do not always give."""


@dataclass(frozen=True, eq=False)
class Known:
    """Numbers of groups of rows, as matrices [groups, units]. Without slots, for what is kept.

    NaN and infinities are counted, and left out of the other numbers; asked for what a reduction of
    the rows gives, they come back as torch has them.
    """

    MATRICES: ClassVar = ("nans", "pos_infs", "neg_infs", "min", "max", "sum", "mean", "m2")

    rows: torch.Tensor
    """int64[groups, 1]: rows of each group, at least one."""
    nans: torch.Tensor
    """int64: values that are NaN."""
    pos_infs: torch.Tensor
    """int64: values that are infinite."""
    neg_infs: torch.Tensor
    """int64: values that are minus infinity."""
    min: torch.Tensor
    """Smallest finite values, in the dtype of the values; anything where there is none."""
    max: torch.Tensor
    """Largest ones."""
    sum: torch.Tensor
    """float64, or int64 of integers: sums of the finite values."""
    mean: torch.Tensor
    """float64: their means."""
    m2: torch.Tensor
    """float64: sums of their squared deviations from these."""

    @cached_property
    def count(self) -> int:
        """Rows of all groups together."""
        return int(self.rows.sum())

    @cached_property
    def finite(self) -> torch.Tensor:
        """int64[groups, units]: how many values are finite."""
        return self.rows - self.nans - self.pos_infs - self.neg_infs

    def total(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the sums of all groups: int64, or float64 with what is not finite."""
        if dtype == torch.int64:
            return self.sum.sum(0)
        if self.sum.dtype == torch.int64:
            # sums of words of 64 bits wrap around; their means do not
            wide = self.min.dtype in {torch.int64, torch.uint64}
            return (self.mean * self.rows).sum(0) if wide else self.sum.sum(0).double()
        total = self.sum.sum(0)
        poles = (self.pos_infs.sum(0) > 0, self.neg_infs.sum(0) > 0)
        total = total.masked_fill(poles[0], torch.inf).masked_fill(poles[1], -torch.inf)
        return total.masked_fill((self.nans.sum(0) > 0) | (poles[0] & poles[1]), torch.nan)

    def squares(self) -> torch.Tensor:
        """Return the sums of squares of all groups: float64[units]."""
        squares = (self.m2 + self.mean.square() * self.finite).where(self.finite > 0, 0.0).sum(0)
        infinite = (self.pos_infs + self.neg_infs).sum(0) > 0
        return squares.masked_fill(infinite, torch.inf).masked_fill(self._any_nan, torch.nan)

    def spread(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and sum of squared deviations over all groups, by Chan's rule; nan, if so."""
        mean, m2, _ = self.finite_spread()
        unclean = self._any_nan | ((self.pos_infs + self.neg_infs).sum(0) > 0)
        return mean, m2.masked_fill(unclean, torch.nan)

    def finite_spread(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return mean, sum of squared deviations and count of the finite values of all groups."""
        count = self.finite.sum(0)
        # as distances from one of the means, so that large means cost no digits
        known = torch.where(self.finite > 0, self.mean, 0.0)
        # the first group has values of all units mostly; to look for the largest takes longer
        is_first = bool((self.finite[:1] > 0).all())
        base = known[0] if is_first else known.gather(0, self.finite.argmax(0, keepdim=True))[0]
        near = torch.where(self.finite > 0, self.mean - base, 0.0)
        mean = (near * self.finite).sum(0) / count.clamp(min=1)
        deviations = (near - mean).square() * self.finite
        m2 = (torch.where(self.finite > 0, self.m2, 0.0) + deviations).sum(0)
        return base + mean, m2, count

    def extreme(self, op: str) -> torch.Tensor:
        """Return the smallest or largest values of all groups, as `comparable` gives them."""
        found = self.finite_extreme(op)
        if not found.dtype.is_floating_point:
            return found
        pole = torch.inf if op == "max" else -torch.inf
        poles = (self.pos_infs if op == "max" else self.neg_infs).sum(0) > 0
        return found.masked_fill(poles, pole).masked_fill(self._any_nan, torch.nan)

    def finite_extreme(self, op: str) -> torch.Tensor:
        """Return those of the finite values; infinity beyond all where there is none."""
        values = comparable(self.min if op == "min" else self.max)
        if values.dtype.is_floating_point:
            beyond = torch.inf if op == "min" else -torch.inf
            values = values.masked_fill(self.finite == 0, beyond)
        return values.amin(0) if op == "min" else values.amax(0)

    def truth(self, op: str) -> torch.Tensor:
        """Return whether all or any values differ from zero, or of bools how many do."""
        if op == "count_nonzero":
            return self.sum.sum(0)
        if op == "any":
            odd = (self.nans + self.pos_infs + self.neg_infs) > 0
            return (odd | ((self.finite > 0) & (self._nonzero("min") | self._nonzero("max")))).any(
                0
            )
        return self._no_zeros().all(0)

    def says(self, op: str) -> bool:
        """Return whether the numbers give this reduction; `all` is not always, `mean` is."""
        if op == "count_nonzero":
            return self.min.dtype == torch.bool
        if op != "all":
            return True
        inside = (comparable(self.min) < self._zero) & (comparable(self.max) > self._zero)
        return not bool((inside & (self.finite > 0)).any())

    def _no_zeros(self) -> torch.Tensor:
        low, high = comparable(self.min), comparable(self.max)
        return (self.finite == 0) | (low > self._zero) | (high < self._zero)

    def _nonzero(self, which: str) -> torch.Tensor:
        return comparable(getattr(self, which)) != self._zero

    @cached_property
    def _zero(self) -> torch.Tensor:
        return comparable(torch.zeros(1, dtype=self.min.dtype))

    @property
    def _any_nan(self) -> torch.Tensor:
        return self.nans.sum(0) > 0


def merged(parts: Sequence[Known]) -> Known:
    """Return the numbers of all groups of all parts, as those of one group."""
    every = parts[0] if len(parts) == 1 else _together(parts)
    mean, m2, count = every.finite_spread()
    least, most = (_or_nan(every.finite_extreme(op), count, every) for op in ("min", "max"))
    return Known(
        rows=every.rows.sum(0, keepdim=True),
        nans=every.nans.sum(0, keepdim=True),
        pos_infs=every.pos_infs.sum(0, keepdim=True),
        neg_infs=every.neg_infs.sum(0, keepdim=True),
        min=least,
        max=most,
        sum=every.sum.sum(0, keepdim=True),
        mean=mean.masked_fill(count == 0, torch.nan)[None],
        m2=m2[None],
    )


def _together(parts: Sequence[Known]) -> Known:
    names = ("rows", *Known.MATRICES)
    return Known(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _or_nan(values: torch.Tensor, count: torch.Tensor, like: Known) -> torch.Tensor:
    if values.dtype.is_floating_point:
        values = values.masked_fill(count == 0, torch.nan)
    return original(values, like.min.dtype)[None]
