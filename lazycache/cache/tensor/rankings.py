"""What depends on how values compare, as methods: extremes, their rows, quantiles, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast

import torch

from lazycache.cache.aggregates.extremes import Place
from lazycache.cache.aggregates.histogram import Bins, Counter, Histogram, counted, edges_of
from lazycache.cache.aggregates.quantiles import Interpolation, Median, quantile
from lazycache.cache.aggregates.row_stream import RowStream, by_rows
from lazycache.cache.aggregates.statistics import Statistics, known_of_stream, of_stream
from lazycache.cache.aggregates.topk import TopK, topk
from lazycache.cache.tensor.aggregate import Dim, Kernel, dimensions
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


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


class Rankings:
    """Reductions that compare values, and what their distribution is."""

    __slots__ = ()

    def argmax(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Return the place of the first of the largest values: int64.

        Along `dim`: for `"rows"` the place in `x.rows`, for a dimension of examples or positions
        the place in it (of examples of different length, `dim=1` counts inside each). For None the
        place in all values in one row, as in torch: of `x.load()`, or of `x.rows` where examples
        differ in length. NaN is larger than all else. As of `mean`, a dimension of the row gives a
        lazy tensor. `topk(1)` names example and position.

        Cost: reads what is selected once, in blocks; memory does not grow with rows.

        Raises:
            SelectionError: of no rows, or of several dimensions; see also `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].argmax(1)
            tensor([[1, 1],
                    [2, 2],
                    [0, 0]])
        """
        return self._place("argmax", dim, keepdim, numpy)

    def argmin(
        self, dim: Dim = None, keepdim: bool = False, **numpy: Unpack[NumpyNames]
    ) -> torch.Tensor | LazyTensor:
        """Return the place of the first of the smallest values; NaN is smaller. Else as `argmax`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].argmin("rows")
            tensor([0, 0])
        """
        return self._place("argmin", dim, keepdim, numpy)

    def topk(self, k: int, dim: Dim = "rows", *, largest: bool = True) -> TopK:
        """Return the k largest values of each unit over all rows, and the rows that have them.

        Best first; with `largest=False` the smallest. Of equal values the first rows of the table
        come first; NaN is larger than all else, as in torch.

        Cost: of k up to 32 largest, shards that are selected whole are answered from what was
        stored of them, if all their values are finite: of a whole site no shard is read. Of up to 4
        units, more than 32, the smallest and selections are found by the stored least and greatest
        of every 128 rows: only rows that may be among them are read. Else reads what is selected
        once, in blocks. Memory does not grow with rows, but for 16 bytes for each run of selected
        ones.

        Raises:
            SelectionError: another dimension than that of all rows; fewer rows than k.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][..., 0].topk(2)
            TopK(k=2, units=(), dtype=torch.float32)
                   value        row  example position
                      10          5        2        0
                       8          4        1        2
        """
        _rows_only("topk", cast("LazyTensor", self), dim)
        return topk(cast("LazyTensor", self), k, largest=largest)

    def quantile(
        self,
        q: float | Sequence[float] | torch.Tensor,
        dim: Dim = "rows",
        keepdim: bool = False,
        *,
        interpolation: Interpolation = "linear",
    ) -> torch.Tensor | LazyTensor:
        """Return quantiles over `dim`, exact: float64, as `torch.quantile` of float64 values.

        Several `q` are a first dimension of the result. Of a unit with a NaN the result is nan.
        `interpolation` is between two values: linear, lower, higher, midpoint or nearest. A
        dimension of the row gives a lazy tensor, of one `q`.

        Cost: several passes over what is selected, in 256 MiB at most. Where units fit into that,
        as many as fit are read and sorted at a time. Else digits of their values are counted: of
        16 bits one pass, of 32 two, of 64 four, for each 256 units (512 of 16 bits, fewer where
        there are several `q`).

        Raises:
            SelectionError: of no rows; `q` is not from 0 to 1; see also `mean`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].quantile([0, 0.25])
            tensor([[0.0000, 1.0000],
                    [2.5000, 3.5000]], dtype=torch.float64)
        """
        kernel = quantile(q, interpolation)
        found = self._reduced(kernel, dim, keepdim, several=not kernel.single)
        if kernel.single or not isinstance(found, torch.Tensor):
            return found
        return found.movedim(-1, 0)

    def median(self, dim: Dim = "rows", keepdim: bool = False) -> torch.Tensor | LazyTensor:
        """Return the median over `dim`, of two the lower, in the dtype of the values; as in torch.

        `quantile(0.5)` is between the two. Cost and errors as `quantile`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].median()
            tensor([4., 5.])
        """
        return self._reduced(Median(), dim, keepdim)

    def histogram(
        self,
        bins: Bins = 100,
        range: tuple[float, float] | None = None,  # noqa: A002  # torch's and numpy's name
        dim: Literal["rows"] | None = None,
    ) -> Histogram:
        """Count the values between edges: of all values, or with `dim="rows"` of each unit.

        `bins` is a number of bins of one width, from the least to the greatest finite value or over
        `range`, or their edges. Edges and counts are those of numpy's histogram in float64. What is
        not finite, or beyond the edges, is counted apart.

        Cost: one pass over what is selected, in blocks. Least and greatest are stored of whole
        blocks of rows; of others, and where neither bins nor range say the edges, another pass.
        Memory does not grow with rows.

        Raises:
            SelectionError: another dimension; edges that do not ascend; a range that is not finite.

        Example:
            >>> from lazycache.samples import small_cache
            >>> counts, edges = small_cache()["resid_out_0"].histogram(3, range=(0, 6))
            >>> counts, edges
            (tensor([2, 2, 3]), tensor([0., 2., 4., 6.], dtype=torch.float64))
        """
        if dim is not None:
            _rows_only("histogram", cast("LazyTensor", self), dim)
        stream = self._columns(each=dim is not None)
        edges = edges_of(bins, range, stream.units, lambda: known_of_stream(stream))
        total = Counter(edges, even=isinstance(bins, int))
        parts = stream.map(lambda matrix: total.like().add(matrix))
        return counted(parts, total, stream.kept, stream.x.device)

    def statistics(self, dim: Literal["rows"] | None = "rows") -> Statistics:
        """Return counts, least, greatest, mean, std and sum of each unit over all rows.

        With `dim=None` of all values together. What is not finite is counted, and in no other
        number, so that one NaN hides nothing.

        Cost: as `mean("rows")`: of a whole site with statistics no shard is read.

        Raises:
            SelectionError: of no rows, or another dimension.

        Example:
            >>> from lazycache.samples import small_cache
            >>> found = small_cache()["resid_out_0"].statistics()
            >>> found.max, found.nans
            (tensor([10., 11.]), tensor([0, 0]))
        """
        if dim is not None:
            _rows_only("statistics", cast("LazyTensor", self), dim)
        return of_stream(self._columns(each=dim is not None))

    def _place(
        self, name: str, dim: Dim, keepdim: bool, numpy: NumpyNames
    ) -> torch.Tensor | LazyTensor:
        chosen = chosen_dim(name, dim, numpy)
        if isinstance(chosen, (tuple, list)) and len(chosen) != 1:
            raise SelectionError(
                f"{name} over dimensions {chosen!r}: name one dimension, 'rows', or None for all, "
                "whose places are of all values in one row."
            )
        kept = keepdim or bool(numpy.get("keepdims"))
        return self._reduced(Place(name), chosen, kept, eager="out" in numpy)

    def _columns(self, *, each: bool) -> RowStream:
        x = cast("LazyTensor", self)
        return by_rows(x, () if each else tuple(range(len(x.row_shape))))

    if TYPE_CHECKING:

        def _reduced(
            self,
            kernel: Kernel,
            dim: Dim,
            keepdim: bool,
            *,
            eager: bool = False,
            several: bool = False,
        ) -> torch.Tensor | LazyTensor: ...


def _rows_only(what: str, x: LazyTensor, dim: Dim) -> None:
    lead = tuple(range(x.lead_ndim))
    if dim is None or dimensions(dim, ndim=x.ndim, lead=x.lead_ndim) != lead:
        raise SelectionError(
            f"{what} is over all rows, dim='rows', not {dim!r}. Select the rows first, x[3] (one "
            "example); of other dimensions a torch function loads the values, "
            "torch.topk(x, k, dim=-1)."
        )


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
