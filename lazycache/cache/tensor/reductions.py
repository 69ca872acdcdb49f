"""The aggregates of a lazy tensor, as its methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack, cast

import torch

from lazycache.cache.tensor.aggregate import (
    Dim,
    Fold,
    Kernel,
    count_rows,
    lazily,
    reduced,
    units_only,
)
from lazycache.cache.tensor.rankings import NumpyNames, Rankings, chosen_dim
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


class Reductions(Rankings):
    """Aggregates: what is stored of whole blocks is not read again, the rest once, in blocks.

    Memory does not grow with rows.
    """

    __slots__ = ()

    def mean(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Reduce dimensions: `"rows"` for all examples and positions, numbers, or None for all.

        `dim=1` gives one result per example, whatever their lengths. Results of mean, var, std and
        norm are float64, of sum float64 (int64 for integers and bools), of min and max the dtype
        of the values. Their shape is what is left, with ones where `keepdim`. Rows that were not
        captured do not count. NaN and infinity go through as in torch, and so does the mean of
        nothing (nan). numpy's `axis` and `keepdims` are taken too: `np.mean(x, axis=0)` streams.

        Where rows stay and only dimensions of each row go, `dim=-1`, the result is lazy itself: a
        tensor of the same examples and positions, ragged or not, worked out when it is read.

        Cost: over all rows (`"rows"`, None), blocks of rows that are selected whole are answered
        from the statistics that were stored with them: of a whole site no value is read, of other
        selections those at their edges. Else reads what is selected once, in blocks of some MB.
        Memory does not grow with rows.

        Raises:
            SelectionError: there is no such dimension, or examples differ in length and the result
                would too; `dtype` or `out` was given.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].mean("rows")
            tensor([5., 6.], dtype=torch.float64)
        """
        return self._aggregate("mean", dim, keepdim, numpy)

    def sum(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Return the sum over `dim`: float64, int64 for integers and bools. Else as `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].sum(1)  # of each example
            tensor([[ 2.,  4.],
                    [18., 21.],
                    [10., 11.]], dtype=torch.float64)
        """
        return self._aggregate("sum", dim, keepdim, numpy)

    def min(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Return the smallest value over `dim`, in the dtype of the values. Else as `mean`.

        Values only, unlike `torch.min`: as `torch.amin`.

        Raises:
            SelectionError: of no rows; see also `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].min("rows")
            tensor([0., 1.])
        """
        return self._aggregate("min", dim, keepdim, numpy)

    def max(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Return the largest value over `dim`, in the dtype of the values. Else as `mean`.

        Values only, unlike `torch.max`: as `torch.amax`.

        Raises:
            SelectionError: of no rows; see also `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].max().item()
            11.0
        """
        return self._aggregate("max", dim, keepdim, numpy)

    def var(
        self,
        dim: Dim = None,
        keepdim: bool = False,
        *,
        correction: float = 1,
        ddof: float | None = None,
        **numpy: Unpack[NumpyNames],
    ) -> torch.Tensor | LazyTensor:
        """Return the variance over `dim`, divided by the count minus `correction`: float64.

        `ddof` is numpy's name of the correction; `np.var(x)` passes 0. nan where nothing is left to
        divide by, as in torch. Else as `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].var("rows", correction=0)
            tensor([11.6667, 11.6667], dtype=torch.float64)
        """
        by = correction if ddof is None else ddof
        return self._aggregate("var", dim, keepdim, numpy, correction=by)

    def std(
        self,
        dim: Dim = None,
        keepdim: bool = False,
        *,
        correction: float = 1,
        ddof: float | None = None,
        **numpy: Unpack[NumpyNames],
    ) -> torch.Tensor | LazyTensor:
        """Return the square root of `var`: float64. Else as `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].std("rows")
            tensor([3.7417, 3.7417], dtype=torch.float64)
        """
        by = correction if ddof is None else ddof
        return self._aggregate("std", dim, keepdim, numpy, correction=by)

    def norm(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Return the Euclidean norm over `dim`: float64. Else as `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].norm(-1)[1].load()  # of each row of example 1
            tensor([ 6.4031,  9.2195, 12.0416], dtype=torch.float64)
        """
        return self._aggregate("norm", dim, keepdim, numpy)

    def count(self, dim: Dim = "rows") -> int | torch.Tensor:
        """Return how many rows there are; for `dim=1` of each example: int64[examples].

        Cost: reads nothing.

        Raises:
            SelectionError: no such dimension, or one along which examples differ.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].count(), small_cache()["resid_out_0"].count(1)
            (6, tensor([2, 3, 1]))
        """
        return count_rows(cast("LazyTensor", self), dim)

    def all(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Return whether all values over `dim` differ from zero: bool. Else as `mean`.

        NaN differs from zero, as in torch. Stored statistics say it of units that have a zero
        beside values of one sign only, or none; others are read.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].all("rows")  # unit 0 of the first row is zero
            tensor([False,  True])
        """
        return self._aggregate("all", dim, keepdim, numpy)

    def any(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Return whether any value over `dim` differs from zero: bool. Else as `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> (small_cache()["resid_out_0"] > 10).any("rows")
            tensor([False,  True])
        """
        return self._aggregate("any", dim, keepdim, numpy)

    def count_nonzero(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Return how many values over `dim` differ from zero: int64. Else as `mean`.

        Cost: as `mean`; but of bools, no statistics are stored that say it.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].count_nonzero("rows")
            tensor([5, 6])
        """
        return self._aggregate("count_nonzero", dim, keepdim, numpy)

    def _aggregate(
        self, op: str, dim: Dim, keepdim: bool, numpy: NumpyNames, *, correction: float = 1
    ) -> torch.Tensor | LazyTensor:
        chosen = chosen_dim(op, dim, numpy)
        kept = keepdim or bool(numpy.get("keepdims"))
        return self._reduced(Fold(op, correction), chosen, kept, eager="out" in numpy)

    def _reduced(
        self,
        kernel: Kernel,
        dim: Dim,
        keepdim: bool,
        *,
        eager: bool = False,
        several: bool = False,
    ) -> torch.Tensor | LazyTensor:
        x = cast("LazyTensor", self)
        # numpy's functions name `out`, and are asked for numbers
        units = () if eager else units_only(x, dim)
        if units:
            if several:
                raise SelectionError(
                    f"{kernel.name} of each row, dim={dim!r}, is a lazy tensor: one at a time."
                )
            return lazily(x, kernel, units, keepdim=keepdim)
        return reduced(x, kernel, dim, keepdim=keepdim)
