"""The aggregates of a lazy tensor, as its methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import torch

from lazycache.cache.aggregate import Dim, aggregate, count_rows
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.lazy_tensor import LazyTensor


class NumpyNames(TypedDict, total=False):
    """What `np.mean(x, axis=0)` and its like hand to the method of the same name."""

    axis: Dim
    """`dim`."""
    keepdims: bool
    """`keepdim`."""
    dtype: None
    """Refused: the dtypes of results are those of `LazyTensor.mean`."""
    out: None
    """Refused: a result is a new tensor."""


class Reductions:
    """Aggregates: read once, in blocks of some MB, in memory that does not grow with rows."""

    __slots__ = ()

    def mean(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor:
        """Reduce dimensions: `"rows"` for all examples and positions, numbers, or None for all.

        `dim=1` gives one result per example, whatever their lengths. Results of mean, var, std and
        norm are float64, of sum float64 (int64 for integers and bools), of min and max the dtype
        of the values. Their shape is what is left, with ones where `keepdim`. Rows that were not
        captured do not count. NaN and infinity go through as in torch, and so does the mean of
        nothing (nan). numpy's `axis` and `keepdims` are taken too: `np.mean(x, axis=0)` streams.

        Cost: reads what is selected once, in blocks of some MB; memory does not grow with rows.

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
    ) -> torch.Tensor:
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
    ) -> torch.Tensor:
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
    ) -> torch.Tensor:
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
    ) -> torch.Tensor:
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
    ) -> torch.Tensor:
        """Return the square root of `var`: float64.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].std("rows")
            tensor([3.7417, 3.7417], dtype=torch.float64)
        """
        by = correction if ddof is None else ddof
        return self._aggregate("std", dim, keepdim, numpy, correction=by)

    def norm(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor:
        """Return the Euclidean norm over `dim`: float64. Else as `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][1].norm(-1)  # of each row of example 1
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

    def _aggregate(
        self, op: str, dim: Dim, keepdim: bool, numpy: NumpyNames, *, correction: float = 1
    ) -> torch.Tensor:
        chosen = chosen_dim(op, dim, numpy)
        kept = keepdim or bool(numpy.get("keepdims"))
        return aggregate(cast("LazyTensor", self), op, chosen, keepdim=kept, correction=correction)


def chosen_dim(op: str, dim: Dim, numpy: NumpyNames) -> Dim:
    """Return the dimension that was asked for by its torch or its numpy name.

    Raises:
        SelectionError: both names, or `dtype` or `out`.
        TypeError: another name.
    """
    given: dict[str, Any] = dict(numpy)
    unknown = given.keys() - NumpyNames.__annotations__.keys()
    if unknown:
        raise TypeError(f"{op}() has no argument {', '.join(sorted(unknown))}")
    if given.get("dtype") is not None or given.get("out") is not None:
        raise SelectionError(
            f"{op} takes no dtype and no out: it is computed in float64 (see .mean). Convert the "
            "result, .to(dtype), or the values first, x.to(dtype)."
        )
    axis: Dim = given.get("axis")
    if dim is not None and axis is not None:
        raise SelectionError(f"{op} over dim={dim!r} and axis={axis!r}: give one of them.")
    return axis if dim is None else dim
