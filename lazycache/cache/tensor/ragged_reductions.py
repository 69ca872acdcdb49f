"""Aggregates of ragged tensors: example by example, in the memory of some examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, cast

import torch

from lazycache.cache.aggregates.histogram import Bins, Counter, Histogram, counted, edges_of
from lazycache.cache.aggregates.quantiles import in_front
from lazycache.cache.aggregates.reduce import Accumulator, accumulator, no_rows
from lazycache.cache.aggregates.statistics import Statistics, folded, known_of_matrix, of_known
from lazycache.cache.aggregates.topk import TopK
from lazycache.cache.memory.loading import within_budget
from lazycache.cache.reading.known import Known
from lazycache.cache.tensor.aggregate import Dim, Fold, Kernel, dimensions
from lazycache.cache.tensor.reductions import Reductions
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.ragged_tensor import RaggedTensor

_QUERIES, _KEYS = 2, 3


class RaggedReductions(Reductions):
    """Aggregates over numbered dimensions, with the dtypes of `LazyTensor.mean`.

    All give numbers. mean, sum, min, max, var, std, norm, all, any, count_nonzero, histogram and
    statistics read example by example; so does every reduction that leaves the examples. What is
    left must be dense: of examples with different queries or keys, these dimensions have to go.
    Keys that a row does not have count as the zeros they read as.
    """

    __slots__ = ()

    def count(self, dim: Dim = "rows") -> int:
        """Return how many rows (queries of examples) are selected.

        Cost: reads nothing.

        Raises:
            SelectionError: of other dimensions; `shape`, `lengths` and `widths` say these.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache()["pattern_0"].count()
            6
        """
        if dim != "rows":
            raise SelectionError("count() counts rows; .lengths and .widths count by example.")
        return int(cast("RaggedTensor", self).selection.lengths.sum())

    def topk(self, k: int, dim: Dim = "rows", *, largest: bool = True) -> TopK:
        """Refuse: rows of different width have no units in common.

        Raises:
            SelectionError: always.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache()["pattern_0"][0].load().topk(1).values.shape
            torch.Size([2, 2, 1])
        """
        which = "largest" if largest else "smallest"
        raise SelectionError(
            f"the {k} {which} over {dim!r} of rows of different width: .load() an example, x[i], "
            "or take its .topk() within the budget, torch.topk(x[i], k)."
        )

    def histogram(
        self,
        bins: Bins = 100,
        range: tuple[float, float] | None = None,  # noqa: A002  # torch's and numpy's name
        dim: Literal["rows"] | None = None,
    ) -> Histogram:
        """Count all values between edges; as `LazyTensor.histogram`.

        Cost: reads what is selected once, and once more where neither bins nor range say the edges.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache()["pattern_0"][:, 1].histogram(2).counts  # zeros and ones
            tensor([8, 6])
        """
        self._all_only("histogram", dim)
        edges = edges_of(bins, range, 1, self._known)
        total = Counter(edges, even=isinstance(bins, int))
        parts = (total.like().add(chunk.reshape(-1, 1)) for chunk in self._chunks())
        return counted(parts, total, (), cast("RaggedTensor", self).device)

    def statistics(self, dim: Literal["rows"] | None = None) -> Statistics:
        """Return counts, least, greatest, mean, std and sum of all values together.

        Cost: reads what is selected once.

        Raises:
            SelectionError: of no values, or of one dimension.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache()["pattern_0"].statistics().mean
            tensor(0.4286, dtype=torch.float64)
        """
        self._all_only("statistics", dim)
        found = self._known()
        if found is None:
            raise no_rows("statistics")
        return of_known(found, shape=(), device=cast("RaggedTensor", self).device)

    def _known(self) -> Known | None:
        return folded(known_of_matrix(chunk.reshape(-1, 1)) for chunk in self._chunks())

    def _chunks(self) -> Iterator[torch.Tensor]:
        return cast("RaggedTensor", self).chunks()

    def _all_only(self, what: str, dim: Dim) -> None:
        if dim is not None:
            raise SelectionError(
                f"{what} over {dim!r} of rows of different width: dim=None, of all values together."
            )

    def _reduced(
        self,
        kernel: Kernel,
        dim: Dim,
        keepdim: bool,
        *,
        eager: bool = False,  # noqa: ARG002  # all are
        several: bool = False,  # noqa: ARG002  # so that there is room for them
    ) -> torch.Tensor:
        x = cast("RaggedTensor", self)
        if isinstance(dim, str):
            raise SelectionError(
                f"{kernel.name} over {dim!r} of rows of different width: use numbers."
            )
        dims = dimensions(dim, ndim=x.ndim, lead=0)
        if not dims:
            raise SelectionError(f"{kernel.name} over no dimension: name one, or None for all.")
        result = _reduce(x, kernel, dims)
        for d in dims if keepdim else ():
            result = result.unsqueeze(d)
        return result


def _reduce(x: RaggedTensor, kernel: Kernel, dims: tuple[int, ...]) -> torch.Tensor:
    _check_dense(x, kernel, dims)
    if x.selection.removed[0]:
        (values,) = x.chunks()
        return _of_example(x, kernel, values, dims)
    rest = tuple(d - 1 for d in dims if d)
    if 0 not in dims:
        found = [_of_example(x, kernel, values, rest) for values in x.chunks()]
        return torch.stack(found) if found else _of_example(x, kernel, x.load(), dims)
    if isinstance(kernel, Fold):
        return _of_all(x, kernel, rest)
    within_budget([x], what=kernel.name)
    if len(dims) == x.ndim:
        flat = [values.reshape(-1) for values in x.chunks()]
        return kernel.direct(torch.cat(flat) if flat else x.load().reshape(-1), (0,))
    return kernel.direct(x.load(), dims)


def _check_dense(x: RaggedTensor, kernel: Kernel, dims: tuple[int, ...]) -> None:
    """Refuse to leave a dimension in which examples differ."""
    removed = x.selection.removed
    if removed[0]:
        return
    there = [axis for axis, gone in enumerate(removed) if not gone]
    left = {axis for d, axis in enumerate(there) if d not in dims}
    sizes = {_QUERIES: x.lengths, _KEYS: x.widths}
    differ = [axis for axis in (_QUERIES, _KEYS) if axis in left and len(set(sizes[axis])) > 1]
    if differ:
        names = " and ".join({_QUERIES: "queries", _KEYS: "keys"}[axis] for axis in differ)
        raise SelectionError(
            f"{kernel.name} over {dims} leaves {names}, in which examples differ, so it has no "
            "dense result: reduce these too, select one of each, x[:, :, -1], or take an example, "
            f"x[i].{kernel.name}(...)."
        )


def _of_example(
    x: RaggedTensor, kernel: Kernel, values: torch.Tensor, dims: tuple[int, ...]
) -> torch.Tensor:
    if not isinstance(kernel, Fold):
        return kernel.direct(values, dims)
    rows = in_front(values, dims)
    return _added(_fresh(x, kernel, rows), rows).result().reshape(rows.shape[1:])


def _of_all(x: RaggedTensor, kernel: Fold, dims: tuple[int, ...]) -> torch.Tensor:
    """Reduce the examples and `dims` of each."""
    total: Accumulator | None = None
    left = tuple(n for d, n in enumerate(x.shape[1:]) if d not in dims)
    for values in x.chunks():
        rows = in_front(values, dims)
        total = _added(_fresh(x, kernel, rows) if total is None else total, rows)
    if total is None:
        total = _fresh(x, kernel, torch.empty(0, *left, device="cpu"))
    return total.result().reshape(left)


def _fresh(x: RaggedTensor, kernel: Fold, rows: torch.Tensor) -> Accumulator:
    units = math.prod(rows.shape[1:])
    return accumulator(kernel.name, units, x.dtype, device=x.device, correction=kernel.correction)


def _added(total: Accumulator, rows: torch.Tensor) -> Accumulator:
    return total.add(rows.reshape(len(rows), math.prod(rows.shape[1:])))
