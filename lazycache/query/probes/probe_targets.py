"""What a probe is to find: a class or a number for each row, and the rows that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch

from lazycache.cache.tables.groups import encoded, numbered
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError
from lazycache.query.comparing.paired_rows import values_beside

if TYPE_CHECKING:
    import pyarrow as pa

Target: TypeAlias = "str | LazyTensor | torch.Tensor | np.ndarray | Sequence[Any]"
"""A class or a number for each row: a column, an expression of SQL, or the values themselves."""

Kind = Literal["auto", "logistic", "ridge"]
"""Whether a probe tells classes apart or finds a number."""

FEW_VALUES = 20
"""Whole numbers of which there are at most so many different ones are classes."""

MOST_CLASSES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The targets of rows, in the order of `x.rows`."""

    classes: tuple[Any, ...] | None
    """Their different values, ascending; None of numbers."""
    values: torch.Tensor
    """int64[known], places in `classes`; or float64[known]."""
    known: np.ndarray
    """bool[rows]: which rows have one: NULL and NaN are none."""


def targets_of(x: LazyTensor, target: Target, kind: Kind) -> Targets:
    """Return the targets of all rows of `x`.

    Raises:
        QueryError: there is no such column; they are neither classes nor numbers, or there are not
            as many as rows; infinite numbers; too many classes.
    """
    import pyarrow.compute as pc  # loaded when it is used: reading tensors does without

    if kind not in get_args(Kind):
        raise QueryError(f"probe(kind={kind!r}): one of {', '.join(get_args(Kind))}.")
    column = _column(x, target)
    known = pc.invert(pc.is_null(column, nan_is_null=True)).to_numpy(zero_copy_only=False)
    there = column.filter(known)
    if _is_class(there, kind):
        return _classes(there, known)
    return _numbers(there, known)


def _column(x: LazyTensor, target: Target) -> pa.Array:
    import pyarrow as pa  # loaded when it is used: reading tensors does without

    if isinstance(target, str):
        column = x.rows.columns(target).column(0).combine_chunks()
    else:
        column = pa.array(_array(x, target), from_pandas=True)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    count = x.rows.shape[0]
    if len(column) != count:
        raise QueryError(
            f"probe of {count:,} rows with {len(column):,} targets: one for each row is needed, in "
            "the order of x.rows (x.rows.column(...) has it)."
        )
    return column


def _array(x: LazyTensor, target: Any) -> Any:
    """Return given targets as what Arrow takes."""
    if isinstance(target, LazyTensor):
        target = values_beside(x, target)
    if isinstance(target, torch.Tensor):
        wide = target.dtype.is_floating_point and target.dtype.itemsize < torch.float32.itemsize
        target = (target.float() if wide else target).detach().cpu().numpy()
    found = target if isinstance(target, list | tuple) else np.asarray(target)
    if isinstance(found, np.ndarray) and found.ndim != 1:
        raise QueryError(
            f"probe: targets of shape {list(found.shape)}; one for each row is needed, [rows]."
        )
    return found


def _is_class(column: pa.Array, kind: Kind) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind != "auto":
        return kind == "logistic"
    of = column.type
    if pa.types.is_integer(of):
        return int(pc.count_distinct(column).as_py()) <= FEW_VALUES
    return not (pa.types.is_floating(of) or pa.types.is_decimal(of))


def _classes(column: pa.Array, known: np.ndarray) -> Targets:
    import pyarrow as pa

    if pa.types.is_nested(column.type):
        raise QueryError(f"probe: a target is one value, not {column.type}.")
    classes, codes = numbered(pa.chunked_array([encoded(column)]))
    if len(classes) > MOST_CLASSES:
        raise QueryError(
            f"probe: {len(classes):,} classes, {MOST_CLASSES:,} are the most. Fewer are an "
            "expression, \"token = ' the'\"; of numbers, kind='ridge'."
        )
    return Targets(classes, torch.from_numpy(codes), known)


def _numbers(column: pa.Array, known: np.ndarray) -> Targets:
    import pyarrow as pa

    try:
        found = column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise QueryError(
            f"probe(kind='ridge') finds numbers, and the target is {column.type}: kind='logistic' "
            "tells classes apart."
        ) from exc
    values = torch.from_numpy(np.array(found.to_numpy(zero_copy_only=False)))
    infinite = int(values.isinf().sum())
    if infinite:
        raise QueryError(
            f"probe: {infinite:,} targets are infinite. Leave their rows out by where=, or make "
            "them NULL, which counts as no target."
        )
    return Targets(None, values, known)
