"""What a column of the tables is in a batch: a tensor of numbers, or a list of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.errors import QueryError

if TYPE_CHECKING:
    import pyarrow as pa

Handed = torch.Tensor | list[Any]
"""A column of a batch: numbers, or texts (None where there is none)."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """How a column is kept, and what it becomes when a batch is handed out."""

    name: str
    """The column."""
    stored: np.dtype[Any]
    """What an entry is while it is kept; of texts their number."""
    handed: np.dtype[Any] | None
    """What an entry of the tensor is; None: texts."""


def kind_of(name: str, found: pa.DataType) -> Kind:
    """Return how a column of an Arrow type is kept and handed out.

    Whole numbers become int64, floats keep their width, decimals become float64.

    Raises:
        QueryError: neither numbers nor texts; says what to write instead.
    """
    import pyarrow as pa  # loaded when it is used: reading tensors does without

    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_string(found) or pa.types.is_large_string(found):
        return Kind(name, np.dtype(np.int32), None)
    if pa.types.is_boolean(found):
        return Kind(name, np.dtype(np.bool_), np.dtype(np.bool_))
    if pa.types.is_integer(found):
        stored = np.dtype(found.to_pandas_dtype())
        return Kind(name, stored, np.dtype(np.int64))
    if pa.types.is_floating(found):
        stored = np.dtype(found.to_pandas_dtype())
        return Kind(name, stored, stored)
    if pa.types.is_decimal(found):
        return Kind(name, np.dtype(np.float64), np.dtype(np.float64))
    raise QueryError(
        f"column {name!r} is {found}: batches have numbers and texts. {_advice(found)}"
    )


def _advice(found: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_nested(found):
        return "Take one number of each row, unit(site, i) or list[1]; a site itself is no column."
    return f"Convert it by an expression: epoch(...) of a time, CAST(... AS VARCHAR) of {found}."


def numbers_of(kind: Kind, column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers as an array of what is stored; NULL is nan among floats.

    Raises:
        QueryError: NULL among whole numbers or bools, which have no value for it; or a number that
            int64 does not hold.
    """
    import pyarrow as pa

    assert kind.handed is not None
    if column.null_count and kind.handed.kind != "f":
        raise QueryError(
            f"column {kind.name!r} has no value for {column.null_count:,} of {len(column):,} rows "
            f"that were read. Choose rows, where='({kind.name}) IS NOT NULL', or name a value for "
            f"them: columns=['coalesce({kind.name}, -1)']."
        )
    wanted = pa.from_numpy_dtype(kind.stored)
    try:
        found = column if column.type == wanted else column.cast(wanted)
    except pa.ArrowInvalid as exc:
        raise QueryError(f"column {kind.name!r} has numbers that are too large: {exc}") from exc
    values: np.ndarray = found.to_numpy()
    if kind.stored == np.uint64 and values.max(initial=0) > np.iinfo(np.int64).max:
        raise QueryError(
            f"column {kind.name!r} has numbers that int64 does not hold: {values.max():,}. Take "
            f"a remainder, {kind.name} % 1000000007."
        )
    return values


def handed(kind: Kind, values: np.ndarray, words: np.ndarray | None) -> Handed:
    """Return entries, which are the caller's, as a batch has them; `words` are texts by number."""
    if kind.handed is None:
        assert words is not None
        texts: list[Any] = words.take(values).tolist()
        return texts
    return torch.from_numpy(values.astype(kind.handed, copy=False))
