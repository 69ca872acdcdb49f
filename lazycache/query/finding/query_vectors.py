"""What rows are compared with: a vector or several, given as numbers or as rows of a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError

if TYPE_CHECKING:
    UnitIndex: TypeAlias = "int | slice | Sequence[int] | tuple[Any, ...] | None"

Vectors: TypeAlias = "LazyTensor | torch.Tensor | np.ndarray | Sequence[Any]"
"""A vector [units], or several [queries, units]."""


def units_of(x: LazyTensor, units: UnitIndex) -> LazyTensor:
    """Return some units of every row: an index of the dimensions of a row, as torch takes it.

    Raises:
        SelectionError: it does not fit.
    """
    return x if units is None else x[(*(slice(None),) * x.lead_ndim, *_index(units))]


def vectors_of(to: Vectors, x: LazyTensor, units: UnitIndex) -> tuple[torch.Tensor, bool]:
    """Return vectors for units of the rows of `x`, and whether there is only one.

    Args:
        to: As `[*row]`, `[units]`, or several of these; whole rows, or only of the units.
        x: With all units.
        units: Those that count, as `units_of` takes them.

    Returns:
        float64[queries, units].

    Raises:
        QueryError: not numbers, of another length, none, or not finite.
    """
    given = _numbers(to)
    chosen = units_of(x, units)
    if not math.prod(chosen.row_shape):
        raise QueryError(f"similar: no unit of {x.site} is chosen, so no row is like another.")
    # one vector before several, whole ones before those of the units: a list of numbers is one
    readings = [(one, whole) for one in (True, False) for whole in (x, chosen)]
    fitting = [(one, y) for one, y in readings if _is(given, y.row_shape, alone=one)]
    if not fitting:
        raise _misfit(given, x, chosen)
    alone, whole = fitting[0]
    vectors = given.reshape(1 if alone else len(given), *whole.row_shape)
    if whole is x:
        vectors = vectors[(slice(None), *_index(units))]
    vectors = vectors.reshape(len(vectors), _size(chosen.row_shape))
    finite = vectors.isfinite().all(dim=1)
    if not bool(finite.all()):
        which = "it" if alone else f"vector {int((~finite).nonzero()[0])}"
        raise QueryError(f"similar: {which} has a NaN or an infinity; what is compared is finite.")
    return vectors, alone


def _index(units: UnitIndex) -> tuple[Any, ...]:
    if isinstance(units, tuple) or units is None:
        return units or ()
    return (units,) if isinstance(units, int | slice) else (np.asarray(units, dtype=np.int64),)


def _numbers(to: Vectors) -> torch.Tensor:
    try:
        given = _given(to)
        return given.detach().to(device="cpu", dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise QueryError(
            f"similar: to is a {type(to).__name__}; give a vector or several, [units] or [queries, "
            f"units]: a tensor, an array, numbers, or rows of a site, x[3, 5]. ({exc})"
        ) from exc


def _given(to: Vectors) -> torch.Tensor:
    if isinstance(to, LazyTensor):
        # examples of different length: their rows, one after the other
        return to.values_of(to.lead.flat()) if to.lead_ndim else to.load()
    if isinstance(to, torch.Tensor):
        return to
    if isinstance(to, list | tuple) and any(isinstance(v, LazyTensor | torch.Tensor) for v in to):
        return torch.stack([_given(vector) for vector in to])
    # as float64: complex numbers are refused, and so is text
    return torch.from_numpy(np.array(to, dtype=np.float64))


def _is(given: torch.Tensor, row_shape: tuple[int, ...], *, alone: bool) -> bool:
    """Return whether this is one row of a shape, or several of them; also flattened."""
    shapes = (tuple(row_shape), (_size(row_shape),))
    return given.shape in shapes if alone else given.ndim > 0 and given.shape[1:] in shapes


def _size(row_shape: tuple[int, ...]) -> int:
    return math.prod(row_shape)


def _misfit(given: torch.Tensor, x: LazyTensor, chosen: LazyTensor) -> QueryError:
    sizes = " or ".join(dict.fromkeys(str(_size(one.row_shape)) for one in (chosen, x)))
    return QueryError(
        f"similar: to has the shape {list(given.shape)}; a row of {x.site} has the shape "
        f"{list(x.row_shape)}. Give a vector of {sizes} numbers, or several, [queries, units]."
    )
