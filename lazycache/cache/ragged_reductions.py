"""Aggregates of ragged tensors: the selection is loaded, within the budget of implicit loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from lazycache.cache.aggregate import Dim, dimensions
from lazycache.cache.loading import within_budget
from lazycache.cache.reduce import direct
from lazycache.cache.reductions import NumpyNames, Reductions, chosen_dim
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.ragged_tensor import RaggedTensor


class RaggedReductions(Reductions):
    """Aggregates over numbered dimensions, with the dtypes of `LazyTensor.mean`."""

    __slots__ = ()

    def count(self, dim: Dim = "rows") -> int:
        """Return how many rows (queries of examples) are selected.

        Cost: reads nothing.

        Raises:
            SelectionError: of other dimensions; `shape`, `lengths` and `widths` say these.
        """
        if dim != "rows":
            raise SelectionError("count() counts rows; .lengths and .widths count by example.")
        return int(cast("RaggedTensor", self).selection.lengths.sum())

    def _aggregate(
        self, op: str, dim: Dim, keepdim: bool, numpy: NumpyNames, *, correction: float = 1
    ) -> torch.Tensor:
        x = cast("RaggedTensor", self)
        chosen = chosen_dim(op, dim, numpy)
        if isinstance(chosen, str):
            raise SelectionError(f"{op} over {chosen!r} of rows of different width: use numbers.")
        within_budget([x], what=op)
        values = x.load()
        dims = dimensions(chosen, ndim=x.ndim, lead=0)
        result = direct(op, values, dims, correction=correction)
        for d in dims if keepdim or bool(numpy.get("keepdims")) else ():
            result = result.unsqueeze(d)
        return result
