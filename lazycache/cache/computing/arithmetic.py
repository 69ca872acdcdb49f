"""Operators on lazy tensors: torch's shapes, dtypes and broadcasting, over rows that are not read.

Values are paired up as torch pairs them, by place from the last dimension on. The result has the
leading dimensions of the operand that has them all: a tensor may have one entry for all positions
of an example, or for all examples, and never more than there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.computing.expressions import derived, node_of
from lazycache.cache.computing.operands import RowsOf
from lazycache.cache.computing.program import Leaf, Node
from lazycache.cache.computing.row_spaces import Numbered, check_aligned, numbered, same_rows
from lazycache.cache.computing.shared_operands import (
    ByPlace,
    Kept,
    Loaded,
    Number,
    PerRow,
    RowsFor,
    Shared,
)
from lazycache.cache.memory.loading import within_budget
from lazycache.cache.selecting.selection import Grid
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

_MATRIX = 2

_REPEATED = "Rows are not repeated lazily: .load() the one that is to be"


def elementwise(function: Callable[..., Any], args: Sequence[Any]) -> LazyTensor:
    """Return a function of values at one place, of which some are lazy. Reads nothing.

    Raises:
        SelectionError: shapes do not broadcast, or would enlarge the leading dimensions; rows are
            of different examples; devices differ.
        UnsupportedDtypeError: the result has a dtype that datasets do not hold (complex).
        RuntimeError: torch has no such operator for these dtypes.
    """
    values = [_plain(arg) for arg in args]
    x = _widest(values)
    shape = _shape(function, x, values)
    dtype = function(*map(_probe, values)).dtype
    rows = numbered(x.lead) if _renumbers(x, values) else None
    known = {id(v): _operand(v, x, rows) for v in values}
    node = Node(function, tuple(known[id(v)] for v in values), elementwise=True)
    return derived(x, node, shape[x.lead_ndim :], dtype, rows=rows)


def matmul(a: Any, b: Any) -> LazyTensor:
    """Return the matrix product of two, of which some are lazy: of each row by itself.

    How a processor adds up floats depends on how many rows it is given, so the last bit may too.

    Raises:
        SelectionError: it would mix rows (a row is no vector or matrix, or the other operand has
            more dimensions than a row), or shapes do not fit; else as `elementwise`.
    """
    values = [_plain(a), _plain(b)]
    if not all(map(_is_tensor, values)):
        raise _unfit("@", values, "a matrix product is one of tensors")
    x = _widest(values)
    _check_rowwise(x, values)
    try:
        found = torch.matmul(*(_row_probe(v, x) for v in values))
    except RuntimeError as exc:
        raise _unfit("@", values, str(exc).rstrip(".")) from exc
    led = [_is_lazy(v) and v.lead_ndim == x.lead_ndim for v in values]
    lazy = [v for v, has in zip(values, led, strict=True) if has]
    rows = numbered(x.lead) if _renumbers(x, lazy) else None
    args = (_operand(v, x, rows) if has else _whole(v) for v, has in zip(values, led, strict=True))
    shape = tuple(found.shape[1:] if x.lead_ndim else found.shape)
    return derived(x, Node(torch.matmul, tuple(args)), shape, found.dtype, rows=rows)


def of_pairs(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: LazyTensor,
    y: LazyTensor,
    row_shape: tuple[int, ...],
    dtype: torch.dtype,
) -> LazyTensor:
    """Return a function of the rows of two tensors that are at one place. Reads nothing.

    It is given [n, *row] of each, of the same examples, which it must not write to, and gives
    [n, *row_shape] of `dtype`. The result has the leading dimensions and the tables of `x`.

    Raises:
        SelectionError: rows are of different examples, or not as many; devices differ.
    """
    if tuple(x.lead.shape) != tuple(y.lead.shape):
        why = f"{x!r} and {y!r} do not have as many examples and positions as each other"
        raise _unfit("rows", (x, y), why)
    _check_devices((x, y), x.device)
    rows = numbered(x.lead) if _renumbers(x, (x, y)) else None
    args = tuple(_lazy_operand(value, x, rows) for value in (x, y))
    return derived(x, Node(function, args), row_shape, dtype, rows=rows)


def is_operand(value: object) -> bool:
    """Whether it can be computed with: a number, a tensor, an array, a lazy tensor."""
    numbers = (bool, int, float, complex, np.generic, np.ndarray)
    return isinstance(value, numbers) or _is_tensor(value)


def _plain(value: Any) -> Any:
    """Return numpy's as torch takes it: an array as a tensor of its own."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.tensor(value, device="cpu")
    if isinstance(value, torch.Tensor) and value.layout != torch.strided:
        raise SelectionError(f"a tensor of layout {value.layout}: call .to_dense() first.")
    return value


def _is_lazy(value: object) -> bool:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

    return isinstance(value, LazyTensor)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor) or _is_lazy(value)


def _shape_of(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if _is_tensor(value) else ()


def _widest(values: Sequence[Any]) -> LazyTensor:
    """Return the operand that has all the leading dimensions there are, best one of examples."""
    lazy: list[LazyTensor] = [v for v in values if _is_lazy(v)]
    most = max(x.lead_ndim for x in lazy)
    led = [x for x in lazy if x.lead_ndim == most]
    _check_devices(values, led[0].device)
    if most and any(x.lead_ndim and (x.lead_ndim, x.ndim) != (most, led[0].ndim) for x in lazy):
        raise _unfit(
            "operands",
            values,
            "lazy tensors need as many dimensions as each other, leading ones and those of a row, "
            "or torch would pair up other rows. Add dimensions of size 1, x[..., None]",
        )
    lead = _broadcast([tuple(x.lead.shape) for x in led])
    whole = [x for x in led if tuple(x.lead.shape) == lead]
    if not whole:
        raise _unfit("operands", values, f"none has all their rows. {_REPEATED}")
    # one of examples knows whose its rows are
    return max(whole, key=lambda x: (isinstance(x.lead, Grid), x.ndim))


def _check_devices(values: Sequence[Any], device: torch.device) -> None:
    for value in values:
        # a tensor of no dimensions is a number to torch, wherever it is
        if _shape_of(value) and value.device != device:
            raise SelectionError(
                f"operands on {device} and {value.device}: bring them to one, .to(device)."
            )


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    try:
        found: tuple[int, ...] = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return None
    return tuple(found)


def _shape(function: Callable[..., Any], x: LazyTensor, values: Sequence[Any]) -> tuple[int, ...]:
    shape = _broadcast(list(map(_shape_of, values)))
    if shape is None:
        raise _unfit(function.__name__, values, "they do not broadcast")
    lead = tuple(x.lead.shape)
    if x.lead_ndim and (len(shape) != x.ndim or shape[: x.lead_ndim] != lead):
        why = f"the result would have other leading dimensions than {list(lead)}. {_REPEATED}"
        raise _unfit(function.__name__, values, why)
    return shape


def _unfit(name: str, values: Sequence[Any], why: str) -> SelectionError:
    shapes = " and ".join(str(list(_shape_of(v))) for v in values)
    return SelectionError(f"{name} of shapes {shapes}: {why}.")


def _probe(value: Any) -> Any:
    """Return one value of the same dtype and kind: 0-d tensors promote as no others do."""
    if not _is_tensor(value):
        return value
    return torch.ones((1,) * value.ndim, dtype=value.dtype, device="cpu")


def _row_probe(value: Any, x: LazyTensor) -> torch.Tensor:
    """Return [1, *row] without values for what has rows, else the value without values."""
    rows = x.lead_ndim and _is_lazy(value) and value.lead_ndim
    shape = (1, *value.row_shape) if rows else _shape_of(value)
    return torch.empty(shape, dtype=value.dtype, device="meta")


def _check_rowwise(x: LazyTensor, values: Sequence[Any]) -> None:
    row = len(x.row_shape)
    for place, other in enumerate(values if x.lead_ndim else ()):
        if _is_lazy(other) and other.lead_ndim:
            alone = sum(_is_lazy(v) and bool(v.lead_ndim) for v in values) == 1
            fits = row >= _MATRIX or (row == 1 and place == 0 and alone)
        else:
            fits = _is_tensor(other) and len(_shape_of(other)) <= max(row, _MATRIX)
        if not fits:
            raise _unfit(
                "@",
                values,
                f"it would mix the rows of {x!r}, of shape {list(x.row_shape)} each. .load() what "
                "is to be multiplied as a whole",
            )


def _renumbers(x: LazyTensor, values: Sequence[Any]) -> bool:
    """Whether the rows of operands have to be found by place, and not by the number of the row."""
    return any(_has_lead(v, x) and not _has_rows_of(v, x) for v in values)


def _has_lead(value: Any, x: LazyTensor) -> bool:
    """Whether it has leading dimensions of its own, that are not all 1."""
    if _is_lazy(value):
        return bool(value.lead_ndim) or not x.lead_ndim
    shape = _shape_of(value)
    return bool(x.lead_ndim) and any(n != 1 for n in shape[: max(0, len(shape) - len(x.row_shape))])


def _has_rows_of(value: Any, x: LazyTensor) -> bool:
    if value is x or not _is_lazy(value):
        return value is x
    check_aligned(x, value)
    return value.lead.shape == x.lead.shape and same_rows(x.lead, value.lead)


def _operand(value: Any, x: LazyTensor, rows: Numbered | None) -> Node | Leaf:
    if _is_lazy(value):
        return _lazy_operand(value, x, rows)
    if not isinstance(value, torch.Tensor):
        return Number(value)
    extra = value.ndim - len(x.row_shape)
    if rows is not None and _has_lead(value, x):
        return PerRow(Kept.of(value), ByPlace(rows, x.lead, tuple(value.shape[:extra])))
    if not x.lead_ndim:
        return _whole(value)
    # of leading dimensions that are 1, one is kept: with none it could be 0-d
    kept = Kept.of(value.reshape(1, *value.shape[extra:]) if extra > 1 else value)
    return Shared(kept, len(x.row_shape))


def _whole(value: Any) -> Leaf:
    """Return an operand that all rows take as it is."""
    if isinstance(value, torch.Tensor):
        return Shared(Kept.of(value), value.ndim)
    within_budget([value], what="a value that all rows share")
    return Loaded(value, value.ndim)


def _lazy_operand(value: LazyTensor, x: LazyTensor, rows: Numbered | None) -> Node | Leaf:
    if not value.lead_ndim and x.lead_ndim:
        if any(n != 1 for n in value.shape[: max(0, value.ndim - len(x.row_shape))]):
            why = f"torch would pair up rows of {x!r} with parts of {value!r}: .load() it"
            raise _unfit("operands", (x, value), why)
        within_budget([value], what="a value that all rows share")
        return Loaded(value, len(x.row_shape))
    if rows is None or (rows.lead is x.lead and _has_rows_of(value, x)):
        return node_of(value)
    if value.lead.shape == x.lead.shape:
        return RowsOf(value, rows.of(value.lead.flat()))
    return RowsFor(value, ByPlace(rows, x.lead, tuple(value.lead.shape)))
