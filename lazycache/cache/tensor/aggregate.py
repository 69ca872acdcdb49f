"""Aggregates of lazy tensors: which dimensions go, and how what is selected is then read.

Five cases. All rows go: they stream through one reduction. Only the first dimension goes: the same
with longer rows. Only the positions go: each example is reduced as it passes. Positions of examples
of one length, and some units: each block is reduced as it passes. Only units go: nothing is read,
the result is lazy itself.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from lazycache.cache.aggregates.covering import covering
from lazycache.cache.aggregates.reduce import Accumulator, accumulator, direct, tiles
from lazycache.cache.aggregates.row_stream import RowStream, by_first, by_rows
from lazycache.cache.computing.expressions import map_rows
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.reading.known import UNSURE
from lazycache.cache.selecting.selection import Grid
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

Dim = str | int | Sequence[int] | None
"""Dimensions to reduce: `"rows"` for all leading ones, numbers, None for all."""


class Kernel(Protocol):
    """A reduction: of what is in memory, and of what streams by."""

    @property
    def name(self) -> str:
        """What it is called, for messages."""
        ...

    @property
    def in_order(self) -> bool:
        """Whether the result depends on the order of the rows."""
        ...

    def direct(self, values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        """Reduce dimensions of values that are in memory."""
        ...

    def streamed(self, stream: RowStream) -> torch.Tensor:
        """Reduce the rows of a stream: [units, ...]."""
        ...


@dataclass(frozen=True, slots=True)
class Fold:
    """A reduction that takes in rows in any order: one of `reduce.OPS`."""

    name: str
    """Which one."""
    correction: float = 1
    """Of var and std."""
    in_order: bool = False
    """As `Kernel.in_order`."""

    def direct(self, values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        """Reduce dimensions of values that are in memory."""
        return direct(self.name, values, dims, correction=self.correction)

    def streamed(self, stream: RowStream) -> torch.Tensor:
        """Reduce rows: whole blocks from what was stored of them, the others as they are read."""
        total, parts = self.fresh(stream), None
        covered = covering(stream)
        # nearly every reduction is always known: then the numbers are looked at once
        sure = self.name not in UNSURE
        if covered is not None and (sure or all(one.says(self.name) for one in covered.known())):
            for known in covered.known():
                total.add_known(known)
            parts = covered.rest()
        # merged in order of the blocks, so that the result does not depend on the threads
        for part in stream.map(lambda matrix: self.fresh(stream).add(matrix), parts):
            total.merge(part)
        return total.result()

    def fresh(self, stream: RowStream) -> Accumulator:
        """Return an accumulator of the units of a stream."""
        x = stream.x
        return accumulator(
            self.name, stream.units, x.dtype, device=x.device, correction=self.correction
        )


def reduced(x: LazyTensor, kernel: Kernel, dim: Dim, *, keepdim: bool) -> torch.Tensor:
    """Reduce dimensions of `x` into a tensor; see `LazyTensor.mean` for dtypes and cost."""
    if not x.ndim:
        return _of_one_value(x, kernel, dim)
    dims = dimensions(dim, ndim=x.ndim, lead=x.lead_ndim)
    result = _reduced(x, kernel, dims, all_rows=dim == "rows")
    for d in dims if keepdim else ():
        result = result.unsqueeze(d)
    return result


def units_only(x: LazyTensor, dim: Dim) -> tuple[int, ...]:
    """Return which dimensions of a row go, if rows stay and numbers say so; else nothing."""
    if dim is None or isinstance(dim, str) or not x.ndim:
        return ()
    dims = dimensions(dim, ndim=x.ndim, lead=x.lead_ndim)
    return tuple(d - x.lead_ndim for d in dims) if dims and dims[0] >= x.lead_ndim else ()


def lazily(x: LazyTensor, kernel: Kernel, units: tuple[int, ...], *, keepdim: bool) -> LazyTensor:
    """Return `x` with dimensions of each row reduced, as a lazy tensor of the same rows."""
    dims = tuple(d + 1 for d in units)
    shape = tuple(
        1 if d in units else n for d, n in enumerate(x.row_shape) if keepdim or d not in units
    )
    least = torch.zeros((1,) * (1 + len(x.row_shape)), dtype=x.dtype, device="cpu")
    of = partial(_reduced_rows, kernel, dims, keepdim)
    return map_rows(x, of, shape, kernel.direct(least, dims).dtype)


def _reduced_rows(
    kernel: Kernel, dims: tuple[int, ...], keepdim: bool, rows: torch.Tensor
) -> torch.Tensor:
    # a function of the module with arguments: another process finds it when it is unpickled
    found = kernel.direct(rows, dims)
    for d in dims if keepdim else ():
        found = found.unsqueeze(d)
    return found


def _of_one_value(x: LazyTensor, kernel: Kernel, dim: Dim) -> torch.Tensor:
    # as torch: a single value has the dimension 0, for a reduction
    if dim not in (None, "rows", 0, -1, (), (0,), (-1,)):
        raise SelectionError(f"dimension {dim} is out of range: x is a single value.")
    return kernel.direct(x.load().reshape(1), (0,))


def _reduced(
    x: LazyTensor, kernel: Kernel, dims: tuple[int, ...], *, all_rows: bool
) -> torch.Tensor:
    lead = x.lead_ndim
    leading = tuple(d for d in dims if d < lead)
    units = tuple(d - lead for d in dims if d >= lead)
    if not dims:
        raise SelectionError(f"{kernel.name} over no dimension: name one, or 'rows'.")
    shuffled = x.is_ragged or not kernel.in_order or lead == 1 or all_rows
    if len(leading) == lead and lead and shuffled:
        # in the order of x.rows, where the order counts
        return _of_stream(by_rows(x.rows if kernel.in_order else x, units), kernel)
    if not x.is_ragged:
        if lead and 0 in dims:
            return _of_stream(by_first(x, tuple(d - 1 for d in dims if d)), kernel)
        return _by_block(x, kernel, dims)
    if leading == (1,) and isinstance(x.lead, Grid):
        rest = tuple(d + 1 for d in units)
        return _by_example(x, x.lead, kernel, (0, *rest))
    raise SelectionError(
        f"{kernel.name} over dimensions {dims} of examples of different length has no dense "
        "result. Use dim='rows' for all rows, dim=1 for one result per example, "
        "x.rows for one per row."
    )


def dimensions(dim: Dim, *, ndim: int, lead: int) -> tuple[int, ...]:
    """Return `dim`, of `ndim` dimensions of which the first `lead` are rows, as ascending numbers.

    Raises:
        SelectionError: there is no such dimension, or it is named twice.
    """
    if isinstance(dim, str):
        if dim != "rows":
            raise SelectionError(f"dimension {dim!r}: the only name is 'rows'; else use numbers.")
        return tuple(range(lead))
    if dim is None:
        return tuple(range(ndim))
    try:
        dims = [operator.index(d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))]
    except TypeError as exc:
        raise SelectionError(
            f"dimension {dim!r}: numbers, 'rows' or None name dimensions."
        ) from exc
    if any(not -ndim <= d < ndim for d in dims):
        raise SelectionError(f"dimension {dim} is out of range: there are {ndim}.")
    numbers = sorted(d % ndim for d in dims)
    if len(set(numbers)) < len(numbers):
        raise SelectionError(f"dimension {dim} names one dimension twice.")
    return tuple(numbers)


def _of_stream(stream: RowStream, kernel: Kernel) -> torch.Tensor:
    result = kernel.streamed(stream)
    return result.reshape((*stream.kept, *result.shape[1:]))


def _by_block(x: LazyTensor, kernel: Kernel, dims: tuple[int, ...]) -> torch.Tensor:
    if not x.lead_ndim:
        return kernel.direct(x.load(), dims)

    def of(block: torch.Tensor) -> torch.Tensor:
        return torch.cat([kernel.direct(t, dims) for t in tiles(block)])

    parts = list(ordered(of, by_first(x, ()).blocks(), workers=threads(x.nbytes)))
    return torch.cat(parts) if parts else kernel.direct(x.load(), dims)


def _by_example(x: LazyTensor, grid: Grid, kernel: Kernel, dims: tuple[int, ...]) -> torch.Tensor:
    """Reduce [rows, *row] of each example: a few operations per example, whatever its length."""

    def of(part: Grid) -> torch.Tensor:
        values = x.values_of(part.flat())
        examples = torch.split(values, part.lengths().tolist())
        return torch.stack([kernel.direct(t, dims) for t in examples])

    parts = grid.blocks(rows=by_rows(x).block_rows)
    return torch.cat(list(ordered(of, parts, workers=threads(x.nbytes))))


def count_rows(x: LazyTensor, dim: Dim) -> int | torch.Tensor:
    """Return how many rows (or, for `dim=1`, rows per example) there are. Reads nothing."""
    lead = x.lead_ndim
    dims = dimensions(dim, ndim=x.ndim, lead=lead)
    if dims == tuple(range(lead)):
        return by_rows(x).rows if lead else 1
    if dims == (1,) and isinstance(x.lead, Grid):
        return torch.from_numpy(np.array(x.lengths))
    if not x.is_ragged:
        return math.prod(x.shape[d] for d in dims)
    raise SelectionError(f"count over {dims} of examples of different length: use 'rows' or 1.")
