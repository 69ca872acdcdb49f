"""Aggregates of lazy tensors: which dimensions go, which blocks are read, what is kept in memory.

Four cases. Everything but units goes: rows stream through one accumulator. Only the first dimension
goes: the same with longer rows. Only the positions go: each example is reduced as it passes. Only
units go: each block is reduced as it passes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.parallel import ordered, threads
from lazycache.cache.reduce import Accumulator, accumulator, direct, tiles
from lazycache.cache.selection import Dense, Grid
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.lazy_tensor import LazyTensor

Dim = str | int | Sequence[int] | None
"""Dimensions to reduce: `"rows"` for all leading ones, numbers, None for all."""

BLOCK_BYTES = 16 << 20
"""Values that are in memory at a time, counted in float64."""


def aggregate(
    x: LazyTensor, op: str, dim: Dim, *, keepdim: bool, correction: float
) -> torch.Tensor:
    """Reduce dimensions of `x`; see `LazyTensor.mean` for dtypes and cost."""
    if not x.ndim:
        return _of_one_value(x, op, dim, correction=correction)
    dims = dimensions(dim, ndim=x.ndim, lead=x.lead_ndim)
    result = _reduced(x, op, dims, correction=correction)
    for d in dims if keepdim else ():
        result = result.unsqueeze(d)
    return result


def _of_one_value(x: LazyTensor, op: str, dim: Dim, *, correction: float) -> torch.Tensor:
    # as torch: a single value has the dimension 0, for a reduction
    if dim not in (None, "rows", 0, -1, (), (0,), (-1,)):
        raise SelectionError(f"dimension {dim} is out of range: x is a single value.")
    return direct(op, x.load().reshape(1), (0,), correction=correction)


def _reduced(x: LazyTensor, op: str, dims: tuple[int, ...], *, correction: float) -> torch.Tensor:
    lead = x.lead_ndim
    leading = tuple(d for d in dims if d < lead)
    units = tuple(d - lead for d in dims if d >= lead)
    if not dims:
        raise SelectionError(f"{op} over no dimension: name one, or 'rows'.")
    if len(leading) == lead and lead:
        return _streamed(x.rows, op, units, correction=correction)
    if not x.is_ragged:
        if lead and 0 in dims:
            return _streamed(x, op, tuple(d - 1 for d in dims if d), correction=correction)
        return _by_block(x, op, dims, correction=correction)
    if leading == (1,) and isinstance(x.lead, Grid):
        rest = tuple(d + 1 for d in units)
        return _by_example(x, x.lead, op, (0, *rest), correction=correction)
    raise SelectionError(
        f"{op} over dimensions {dims} of examples of different length has no dense result. "
        "Use dim='rows' for all rows, dim=1 for one result per example, x.rows for one per row."
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


def _streamed(x: LazyTensor, op: str, units: tuple[int, ...], *, correction: float) -> torch.Tensor:
    """Reduce the first dimension, and `units` of what follows it."""
    kept = [n for d, n in enumerate(x.shape[1:]) if d not in units]

    def fresh() -> Accumulator:
        return accumulator(op, math.prod(kept), x.dtype, device=x.device, correction=correction)

    def reduced(block: torch.Tensor) -> Accumulator:
        # reduced units become further rows: [rows * reduced, kept]
        moved = block.movedim([d + 1 for d in units], list(range(1, len(units) + 1)))
        return fresh().add(moved.reshape(-1 if block.numel() else 0, math.prod(kept)))

    total = fresh()
    # merged in order of the blocks, so that the result does not depend on the threads
    for part in ordered(reduced, _blocks(x), workers=threads(x.nbytes)):
        total.merge(part)
    return total.result().reshape(kept)


def _by_block(x: LazyTensor, op: str, dims: tuple[int, ...], *, correction: float) -> torch.Tensor:
    if not x.lead_ndim:
        return direct(op, x.load(), dims, correction=correction)

    def reduced(block: torch.Tensor) -> torch.Tensor:
        return torch.cat([direct(op, t, dims, correction=correction) for t in tiles(block)])

    parts = list(ordered(reduced, _blocks(x), workers=threads(x.nbytes)))
    return torch.cat(parts) if parts else direct(op, x.load(), dims, correction=correction)


def _by_example(
    x: LazyTensor, grid: Grid, op: str, dims: tuple[int, ...], *, correction: float
) -> torch.Tensor:
    """Reduce [rows, *row] of each example: a few operations per example, whatever its length."""

    def reduced(part: Grid) -> torch.Tensor:
        values = x.values_of(part.flat())
        examples = torch.split(values, part.lengths().tolist())
        return torch.stack([direct(op, t, dims, correction=correction) for t in examples])

    parts = grid.blocks(rows=_block_rows(x))
    return torch.cat(list(ordered(reduced, parts, workers=threads(x.nbytes))))


def _blocks(x: LazyTensor) -> Iterator[torch.Tensor]:
    """Yield [entries, *shape[1:]] along the first dimension; read and dropped, never kept."""
    lead = x.lead
    if isinstance(lead, Dense) and len(lead.shape) == 1:
        yield from x.scan(lead.flat(), block_rows=_block_rows(x))
    else:
        for part in lead.blocks(rows=_block_rows(x)):
            yield x.values_of(part.flat()).reshape(*part.shape, *x.row_shape)


def _block_rows(x: LazyTensor) -> int:
    return max(1, BLOCK_BYTES // (8 * max(1, math.prod(x.row_shape))))


def count_rows(x: LazyTensor, dim: Dim) -> int | torch.Tensor:
    """Return how many rows (or, for `dim=1`, rows per example) there are. Reads nothing."""
    lead = x.lead_ndim
    dims = dimensions(dim, ndim=x.ndim, lead=lead)
    if dims == tuple(range(lead)):
        return x.rows.shape[0] if lead else 1
    if dims == (1,) and isinstance(x.lead, Grid):
        return torch.from_numpy(np.array(x.lengths))
    if not x.is_ragged:
        return math.prod(x.shape[d] for d in dims)
    raise SelectionError(f"count over {dims} of examples of different length: use 'rows' or 1.")
