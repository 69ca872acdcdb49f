"""Aggregates of a stack: those of its layers, one beside the other or taken together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union, Unpack, cast

import torch

from lazycache.cache.memory.loading import within_budget
from lazycache.cache.stacks import stack_together as together
from lazycache.cache.tensor.aggregate import Dim, dimensions
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.rankings import NumpyNames, chosen_dim
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.stacks.stack import LazyStack

Reduced = Union[torch.Tensor, LazyTensor, "LazyStack"]
"""Numbers; or lazy, where every row stays."""


class StackReductions:
    """Aggregates over `dim`, which counts the layers as dimension 0; "rows" are those of each.

    Layers are reduced one after the other, each as its own aggregate: answered from statistics or
    streamed. Over the layers too, the results of the layers are taken together.
    """

    __slots__ = ()

    def mean(self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]) -> Reduced:
        """Return the mean over `dim`: float64. Over all dimensions if there is none.

        As `LazyTensor.mean` of each layer. What keeps every row is lazy.

        Cost: of the layers, one after the other.

        Raises:
            SelectionError: no such dimension; see `LazyTensor.mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().stack("resid_out_*").mean("rows")
            tensor([[5., 6.]], dtype=torch.float64)
        """
        return self._over("mean", dim, keepdim, numpy, together.mean)

    def sum(self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]) -> Reduced:
        """Return the sum over `dim`: float64, int64 for integers. Else as `mean`."""
        return self._over("sum", dim, keepdim, numpy, together.sum_)

    def min(self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]) -> Reduced:
        """Return the smallest value over `dim`, in the dtype of the values. Else as `mean`."""
        return self._over("min", dim, keepdim, numpy, together.least)

    def max(self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]) -> Reduced:
        """Return the largest value over `dim`, in the dtype of the values. Else as `mean`."""
        return self._over("max", dim, keepdim, numpy, together.most)

    def norm(self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]) -> Reduced:
        """Return the Euclidean norm over `dim`: float64. Else as `mean`."""
        return self._over("norm", dim, keepdim, numpy, together.norm)

    def var(
        self,
        dim: Dim = None,
        keepdim: bool = False,
        *,
        correction: float = 1,
        ddof: float | None = None,
        **numpy: Unpack[NumpyNames],
    ) -> Reduced:
        """Return the variance over `dim`, divided by the count minus `correction`: float64.

        Else as `mean`.
        """
        by = correction if ddof is None else ddof
        return self._over("var", dim, keepdim, numpy, together.variance(by), correction=by)

    def std(
        self,
        dim: Dim = None,
        keepdim: bool = False,
        *,
        correction: float = 1,
        ddof: float | None = None,
        **numpy: Unpack[NumpyNames],
    ) -> Reduced:
        """Return the square root of `var`: float64. Else as `mean`."""
        by = correction if ddof is None else ddof
        variance = together.variance(by)
        return self._over(
            "std",
            dim,
            keepdim,
            numpy,
            lambda members, reduction: variance(members, reduction) ** 0.5,
            correction=by,
        )

    def count(self, dim: Dim = "rows") -> torch.Tensor:
        """Return how many rows there are: of each layer, int64[layers]. Reads nothing.

        For `dim=2`, the positions, of each layer and example: int64[layers, examples].

        Raises:
            SelectionError: over layers; or as `LazyTensor.count`.
        """
        return cast("torch.Tensor", self._each("count", dim))

    def all(self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]) -> Reduced:
        """Return whether all values over `dim` differ from zero: bool. Else as `mean`."""
        return self._over("all", dim, keepdim, numpy, together.both)

    def any(self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]) -> Reduced:
        """Return whether any value over `dim` differs from zero: bool. Else as `mean`."""
        return self._over("any", dim, keepdim, numpy, together.either)

    def argmax(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> Reduced:
        """Return the place of the first of the largest values of each layer: int64.

        As `LazyTensor.argmax` of each; over layers it is refused.
        """
        return self._each("argmax", chosen_dim("argmax", dim, numpy), keepdim)

    def argmin(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> Reduced:
        """Return the place of the first of the smallest values. Else as `argmax`."""
        return self._each("argmin", chosen_dim("argmin", dim, numpy), keepdim)

    def median(self, dim: Dim = "rows", keepdim: bool = False) -> Reduced:
        """Return the median of each layer over `dim`; over layers it is refused.

        Else as `LazyTensor.median`.
        """
        return self._each("median", dim, keepdim)

    def quantile(self, q: Any, dim: Dim = "rows", keepdim: bool = False, **options: Any) -> Reduced:
        """Return quantiles of each layer over `dim`; several `q` are a first dimension.

        Cost and errors as `LazyTensor.quantile`; over layers it is refused.
        """
        rest = self._without_layers("quantile", dim)
        found = [m.quantile(q, rest, keepdim, **options) for m in self._layers]
        if torch.as_tensor(q).ndim:
            return torch.stack(found, dim=1)
        return self._stacked(found)

    def _each(self, op: str, dim: Dim, *args: Any) -> Reduced:
        rest = self._without_layers(op, dim)
        return self._stacked([getattr(m, op)(rest, *args) for m in self._layers])

    def _stacked(self, results: Sequence[Any]) -> Reduced:
        stacked: Reduced = cast("LazyStack", self).restacked(results)
        return stacked

    def _without_layers(self, op: str, dim: Dim) -> Dim:
        layers, rest = self._dims(dim)
        if layers:
            raise SelectionError(
                f"{op} over layers is not put together from that of each: name other dimensions "
                "('rows' for those of each layer), or .load() first."
            )
        return rest

    def _dims(self, dim: Dim) -> tuple[bool, Dim]:
        """Return whether layers go, and which dimensions of each layer."""
        if isinstance(dim, str):
            return False, dim
        dims = dimensions(dim, ndim=self._layers[0].ndim + 1, lead=0)
        if not dims:
            raise SelectionError("over no dimension: name one, or 'rows'.")
        return dims[0] == 0, tuple(d - 1 for d in dims if d)

    def _over(
        self,
        op: str,
        dim: Dim,
        keepdim: bool,
        numpy: NumpyNames,
        over_layers: together.Together,
        **options: float,
    ) -> Reduced:
        kept = keepdim or bool(numpy.get("keepdims"))
        layers, rest = self._dims(chosen_dim(op, dim, numpy))
        # numpy's functions name `out`, and are asked for numbers
        eager = {"out": None} if "out" in numpy else {}
        reduction = together.Reduction(rest, {"keepdim": kept, **eager})
        stack = cast("LazyStack", self)
        result: Reduced
        if not layers:
            result = stack.restacked([reduction.of(m, op, **options) for m in self._layers])
        else:
            result = over_layers(self._layers, reduction)
            result = stack.only(op, result) if kept else result
        if eager and not isinstance(result, torch.Tensor):
            within_budget([result], what=f"{op} of each row")
            return result.load()
        return result

    @property
    def _layers(self) -> Sequence[Any]:
        return cast("LazyStack", self).members
