"""How every unit of a site goes with a number that the tables say of its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import TypeAlias, overload

import numpy as np
import torch

from lazycache.cache.aggregates.comoments import Comoments, comoments
from lazycache.cache.aggregates.covering import covering
from lazycache.cache.aggregates.row_stream import BLOCK_BYTES, by_rows
from lazycache.cache.aggregates.statistics import known_of_stream
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError
from lazycache.query.asked import Cache, Params, Site, tensor_of
from lazycache.query.comparing.paired_rows import values_beside

TILE_VALUES = 1 << 16
"""Values that are multiplied at a time, in float64."""

Column: TypeAlias = "str | LazyTensor | torch.Tensor | np.ndarray | Sequence[float]"
"""A number for each row: a column, an expression of SQL, or the numbers themselves."""

Unit: TypeAlias = "int | tuple[int, ...]"
"""A unit: one index for each dimension of a row; of rows of one dimension the number itself."""


@overload
def correlate(
    cache: Cache,
    site: Site,
    column: Column,
    *,
    top: None = None,
    where: str | None = None,
    params: Params = None,
) -> torch.Tensor: ...
@overload
def correlate(
    cache: Cache,
    site: Site,
    column: Column,
    *,
    top: int,
    where: str | None = None,
    params: Params = None,
) -> list[tuple[Unit, float]]: ...
def correlate(
    cache: Cache,
    site: Site,
    column: Column,
    *,
    top: int | None = None,
    where: str | None = None,
    params: Params = None,
) -> torch.Tensor | list[tuple[Unit, float]]:
    """Return Pearson's r of every unit with a number of each row; see `ActivationCache.correlate`.

    Example:
        >>> from lazycache.samples import small_cache
        >>> correlate(small_cache(), "resid_out_0", "row")
        tensor([1., 1.], dtype=torch.float64)
    """
    x = tensor_of(cache, site, where=where, params=params)
    if top is not None and top < 1:
        raise QueryError(f"top={top}: of how many units, one at least; None for all.")
    rows = x.rows.lead.flat()
    numbers = torch.from_numpy(numbers_of(x, column, len(rows)))
    kept = numbers.isfinite()
    if not bool(kept.all()):
        rows, numbers = as_array(rows)[kept.numpy()], numbers[kept]
    found = _correlated(x, rows, numbers).reshape(x.row_shape)
    return found if top is None else _strongest(found, top)


def _correlated(x: LazyTensor, rows: Rows, numbers: torch.Tensor) -> torch.Tensor:
    """Return Pearson's r of each unit: float64[units]. One pass, merged in order of the rows."""
    units = math.prod(x.row_shape)
    if not len(rows) or not units or bool((numbers == numbers[0]).all()):
        return torch.full((units,), torch.nan, dtype=torch.float64)
    # from their mean, so that products with them do not cancel
    numbers = numbers - numbers.mean()
    nbytes = len(rows) * units * x.dtype.itemsize
    known = _stored_spread(x, rows)
    if known is not None:
        found = _products(x, rows, numbers, units, workers=threads(nbytes))
        return _divided(found, known, numbers.square().sum())

    def of(part: tuple[torch.Tensor, torch.Tensor]) -> Comoments:
        return comoments(part[0].cpu(), part[1])

    parts = _blocks(x, rows, numbers, units)
    total = reduce(Comoments.merged, ordered(of, parts, workers=threads(nbytes)))
    return total.pearson(float(numbers.abs().max()))


def _stored_spread(x: LazyTensor, rows: Rows) -> torch.Tensor | None:
    """Return sums of squared deviations, float64[units], if they are stored of just these rows.

    0 of constant units. None where they are not, or some value is not finite.
    """
    stream = by_rows(x.rows)
    covered = covering(stream)
    if covered is None or len(rows) != stream.rows or any(len(one) for one in covered.rest()):
        return None
    found = known_of_stream(stream)
    if found is None or bool((found.finite < found.rows).any()):
        return None
    constant = (found.min.double() == found.max.double())[0]
    return found.m2[0].masked_fill(constant, 0.0)


def _products(
    x: LazyTensor, rows: Rows, numbers: torch.Tensor, units: int, *, workers: int
) -> torch.Tensor:
    """Return the sums of products of centred numbers and values: float64[units]."""

    def of(part: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        block, total = part[0].cpu(), torch.zeros(units, dtype=torch.float64)
        size = max(1, TILE_VALUES // units)
        # one tile's memory for all of them: it stays in the processor's cache
        room = torch.empty(min(size, len(block)), units, dtype=torch.float64)
        for tile, weights in zip(torch.split(block, size), torch.split(part[1], size), strict=True):
            total += weights @ room[: len(tile)].copy_(tile)
        return total

    parts = ordered(of, _blocks(x, rows, numbers, units), workers=workers)
    return reduce(torch.add, parts)


def _divided(products: torch.Tensor, xx: torch.Tensor, yy: torch.Tensor) -> torch.Tensor:
    found = (products / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0)
    return found.masked_fill(xx == 0, torch.nan)


def _blocks(
    x: LazyTensor, rows: Rows, numbers: torch.Tensor, units: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    done = 0
    for block in x.rows.scan(rows, block_rows=max(1, BLOCK_BYTES // (8 * units))):
        stop = done + len(block)
        yield block.reshape(len(block), units), numbers[done:stop]
        done = stop


def numbers_of(x: LazyTensor, column: Column, count: int) -> np.ndarray:
    """Return a number for each of the rows in storage order, nan where there is none: float64[n].

    Raises:
        QueryError: it is text, a list or a date; or there are not as many.
    """
    if isinstance(column, str):
        return _of_tables(x, column)
    if isinstance(column, LazyTensor):
        return _of_lazy(x, column)
    values = column.detach().cpu() if isinstance(column, torch.Tensor) else column
    if isinstance(values, torch.Tensor) and values.dtype == torch.bfloat16:
        values = values.double()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.shape != (count,):
        raise QueryError(
            f"correlate with an array of {array.dtype}, shape {list(array.shape)}: one number for "
            f"each of the {count:,} rows is needed, in the order of x.rows."
        )
    return array.astype(np.float64, copy=True)


def _of_tables(x: LazyTensor, column: str) -> np.ndarray:
    import pyarrow as pa  # loaded when it is used: numbers in memory do without
    from pyarrow import types

    found = x.rows.columns(column).column(0).combine_chunks()
    kind = found.type
    if not (types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)) and (
        not types.is_decimal(kind)
    ):
        hint = _HINT if types.is_string(kind) or types.is_large_string(kind) else _OTHER
        raise QueryError(f"correlate takes a number for each row; {column!r} is {kind}: {hint}")
    if types.is_boolean(kind):
        found = found.cast(pa.int8())
    numbers = found.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.array(numbers)  # what Arrow gives is not to be written to


_HINT = "say what of it counts, \"label = 'x'\", which is 0 or 1; group_mean has a mean for each."
_OTHER = 'say which number of it is meant, "unit(resid_out_3, 5)" or "epoch(time)" for example.'


def _of_lazy(x: LazyTensor, column: LazyTensor) -> np.ndarray:
    if math.prod(column.row_shape) != 1:
        raise QueryError(
            f"{column!r} is no number for each of the {x.rows.shape[0]:,} rows of {x!r}: select "
            "one unit of the same rows, y[..., 5]."
        )
    return values_beside(x, column).double().reshape(-1).numpy()


def _strongest(found: torch.Tensor, top: int) -> list[tuple[Unit, float]]:
    """Return the units of the greatest |r|, of equal ones the first before; nan is none."""
    flat = found.reshape(-1)
    order = torch.argsort(flat.abs().nan_to_num(-1.0), descending=True, stable=True)
    kept = [i for i in order[:top].tolist() if not math.isnan(float(flat[i]))]
    return [(_named(i, found.shape), float(flat[i])) for i in kept]


def _named(place: int, shape: Sequence[int]) -> Unit:
    index = tuple(int(i) for i in np.unravel_index(place, tuple(shape) or (1,)))
    return index if len(shape) != 1 else index[0]
