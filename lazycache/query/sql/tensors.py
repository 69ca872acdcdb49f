"""Columns of an answer as torch tensors."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds
import torch

from lazycache.catalog.index_fill import quoted
from lazycache.errors import QueryError

Column: TypeAlias = "torch.Tensor | list[Any]"
"""Numbers as a tensor; anything else as a list."""


def tensors(table: pa.Table) -> dict[str, Column]:
    """Return the columns of a table by name, in memory of their own.

    Numbers and bools are tensors [rows], `FLOAT[n]` is [rows, n]. Lists whose lengths differ from
    row to row are a list of tensors. Texts, times and structs are a list of Python values, None
    where there is none.

    Cost: copies each column once.

    Raises:
        QueryError: a NULL among numbers, or whole numbers beyond int64.

    Example:
        >>> tensors(pa.table({"a": [1.0, 2.0], "token": ["x", None]}))
        {'a': tensor([1., 2.], dtype=torch.float64), 'token': ['x', None]}
    """
    return {name: _column(name, table.column(name)) for name in table.column_names}


def _column(name: str, column: pa.ChunkedArray) -> Column:
    if not _is_numbers(column.type):
        values: list[Any] = column.to_pylist()
        return values
    return _numbers(column.combine_chunks(), name)


def _is_numbers(kind: pa.DataType) -> bool:
    """Say whether a type is numbers, or lists of lists of them."""
    while kinds.is_nested(kind) and hasattr(kind, "value_type"):
        kind = kind.value_type
    plain = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind)
    return bool(plain or kinds.is_decimal(kind))


def _numbers(array: pa.Array, name: str) -> Column:
    if array.null_count:
        column = name if name.isidentifier() else quoted(name)
        raise QueryError(
            f"Of {len(array)} values of the column {name!r} {array.null_count} are NULL, and a "
            f"tensor has no NULL: leave them out, WHERE {column} IS NOT NULL, or say what stands "
            f"for them, coalesce({column}, 0)."
        )
    if kinds.is_fixed_size_list(array.type):
        inner = _numbers(array.flatten(), name)
        size = array.type.list_size
        if isinstance(inner, torch.Tensor):
            return inner.reshape(len(array), size, *inner.shape[1:])
        return [inner[at : at + size] for at in range(0, len(inner), size)]
    if kinds.is_nested(array.type):
        return _lists(array, name)
    return _flat(array, name)


def _lists(array: pa.Array, name: str) -> list[Any]:
    """Return each list as a tensor of its own; of lists of other lengths a list."""
    found = []
    for scalar in array:
        one = _numbers(scalar.values, name)
        if isinstance(one, list) and len({part.shape for part in one}) == 1:
            one = torch.stack(one)  # [heads, keys], say
        found.append(one)
    return found


def _flat(array: pa.Array, name: str) -> torch.Tensor:
    if kinds.is_decimal(array.type):
        # sums of whole numbers are decimals without a fraction
        whole = array.type.scale == 0
        try:
            array = array.cast(pa.int64() if whole else pa.float64())
        except pa.ArrowException as exc:
            raise QueryError(f"The column {name!r} has numbers beyond int64: {exc}") from exc
    # a copy: Arrow's memory is not to be written to
    return torch.from_numpy(np.array(array.to_numpy(zero_copy_only=False)))
