"""`unit`, `head`, `dot`, `norm` and `cosine` of any list of numbers, where no row can be seen.

`unit` and `head` are macros of SQL. The others are functions over lists of any type and depth, so
that a value is measured alike in both forms: heads one behind the other, in float32 unless the
numbers are wider. They give DOUBLE, whatever they were measured in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from duckdb.func import FunctionNullHandling, PythonUDFType

from lazycache.errors import QueryError
from lazycache.query.sql import measures
from lazycache.query.sql.arrow_lists import array_of, known_of, numbers_of
from lazycache.query.sql.measures import Kind

if TYPE_CHECKING:
    import duckdb

    from lazycache.query.sql.activity import Activity
    from lazycache.query.sql.failures import ReadFailures

MACROS = """
CREATE MACRO lazycache_unit(value, i) AS CASE
    WHEN i >= len(value) OR i < -len(value)
    THEN error(format('unit: index {} is outside the size {}; indices are 0-based', i, len(value)))
    ELSE value[i + 1 + CASE WHEN i < 0 THEN len(value) ELSE 0 END] END;
CREATE MACRO lazycache_key(value, i) AS CASE
    WHEN (i >= len(value) OR i < -len(value)) AND typeof(value) LIKE '%[]'
    THEN NULL ELSE lazycache_unit(value, i) END;
CREATE MACRO unit(value, i) AS lazycache_unit(value, i),
  (value, h, i) AS lazycache_key(lazycache_unit(value, h), i),
  (value, h, i, j) AS lazycache_unit(lazycache_unit(lazycache_unit(value, h), i), j);
CREATE MACRO head(value, h) AS lazycache_unit(value, h);
CREATE MACRO dot(value, vector) AS "lazycache:dot"(value, vector);
CREATE MACRO norm(value) AS "lazycache:norm"(value);
CREATE MACRO cosine(value, vector) AS "lazycache:cosine"(value, vector);
"""
"""0-based, negative from the end. A key of a head is NULL where the head is a list without it:
rows of attention patterns differ in width. Of an array of fixed size it is a mistake."""

_KINDS: tuple[Kind, ...] = ("dot", "norm", "cosine")


def create(
    connection: duckdb.DuckDBPyConnection, *, failures: ReadFailures, activity: Activity
) -> None:
    """Create the functions of lists, and the macros that call them."""

    def function(kind: Kind) -> Callable[..., pa.Array]:
        def measured(*values: Any) -> pa.Array:
            with failures.carried(), activity.function():
                return measure(kind, *values)

        return measured

    for kind in _KINDS:
        # without types it takes any number of values of any type; the macros say how many
        connection.create_function(
            f"lazycache:{kind}",
            function(kind),
            None,
            "DOUBLE",
            type=PythonUDFType.ARROW,
            null_handling=FunctionNullHandling.SPECIAL,
        )
    connection.execute(MACROS)


def measure(kind: Kind, value: Any, vector: Any = None) -> pa.Array:
    """Return one number per row; NULL where a list or a number in it is NULL.

    Raises:
        QueryError: no lists of numbers, or two of different size.

    Example:
        >>> measure("dot", pa.array([[1, 2], None]), pa.array([[0.5, 1], [1, 1]])).to_pylist()
        [2.5, None]
    """
    rows = _rows(kind, value)
    others = rows if vector is None else _rows(kind, vector)
    present = rows.present & others.present
    _check_sizes(kind, rows, others, present)
    found = np.zeros(len(present), "float64")
    for members, size in _by_size(rows.sizes, present):
        block = torch.from_numpy(rows.block(members, size))
        against = None if vector is None else torch.from_numpy(others.block(members, size))
        numbers, missing = measures.measured(kind, block, against)
        found[members] = numbers.numpy()
        if missing is not None:
            present[members[missing.numpy()]] = False
    return array_of(found, missing=~present)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Lists of numbers."""

    flat: np.ndarray  # float32 or float64, those of all rows, one behind the other
    starts: np.ndarray  # int64[rows]: where each begins
    sizes: np.ndarray  # int64[rows]: how many numbers each has
    outer: np.ndarray | None  # int64[rows]: how many heads each has, where there are heads
    present: np.ndarray  # bool[rows]: neither NULL, nor with a NULL inside

    def block(self, members: np.ndarray, size: int) -> np.ndarray:
        """Return rows of one size as [rows, size]; without a copy if they are all there are."""
        if len(members) == len(self.sizes):
            return self.flat.reshape(len(members), size)
        found: np.ndarray = self.flat[self.starts[members][:, None] + np.arange(size)]
        return found


def _rows(kind: Kind, values: Any) -> _Rows:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    count = len(array)
    if pa.types.is_null(array.type):  # a NULL without a type
        nothing = np.zeros(count, np.int64)
        return _Rows(np.empty(0, "float32"), nothing, nothing, None, np.zeros(count, bool))
    present, sizes, outer = np.ones(count, bool), np.ones(count, np.int64), None
    depth = 0
    while _is_list(array.type):
        present &= _all_of(known_of(array), sizes)
        lengths, _ = numbers_of(pc.list_value_length(array))
        sizes = _sums(np.asarray(lengths, np.int64), sizes)
        outer = sizes if depth == 0 else outer
        array, depth = array.flatten(), depth + 1
    if not depth:
        raise QueryError(f"{kind} takes vectors: lists or arrays of numbers, not {array.type}.")
    present &= _all_of(known_of(array), sizes)
    starts = np.cumsum(sizes) - sizes
    return _Rows(_floats(kind, array), starts, sizes, outer if depth > 1 else None, present)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _sums(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the sum of each run of values: the first `sizes[0]` of them, the next ..."""
    ends = np.cumsum(sizes)
    totals = np.concatenate([[0], np.cumsum(values)])
    found: np.ndarray = totals[ends] - totals[ends - sizes]
    return found


def _all_of(valid: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    found: np.ndarray = _sums(valid.astype(np.int64), sizes) == sizes
    return found


def _floats(kind: Kind, array: pa.Array) -> np.ndarray:
    types = pa.types
    number = types.is_integer(array.type) or types.is_floating(array.type)
    if not (number or types.is_boolean(array.type) or types.is_decimal(array.type)):
        raise QueryError(f"{kind} takes vectors of numbers, not of {array.type}.")
    narrow = types.is_float32(array.type) or types.is_float16(array.type)
    wide = array.cast(pa.float32() if narrow else pa.float64(), safe=False)
    # a copy if it is DuckDB's memory, which torch may not take for its own
    found: np.ndarray = np.require(numbers_of(wide)[0], requirements="W")
    return found


def _check_sizes(kind: Kind, rows: _Rows, others: _Rows, present: np.ndarray) -> None:
    pairs = [(rows.sizes, others.sizes)]
    if rows.outer is not None and others.outer is not None:
        pairs.append((rows.outer, others.outer))
    for mine, theirs in pairs:
        wrong = np.flatnonzero(present & (mine != theirs))
        if len(wrong):
            raise QueryError(
                f"{kind}: a value of {rows.sizes[wrong[0]]} numbers and a vector of "
                f"{others.sizes[wrong[0]]} do not fit: they need the same shape."
            )


def _by_size(sizes: np.ndarray, present: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    members = np.flatnonzero(present)
    for size in np.unique(sizes[members]).tolist():
        yield members[sizes[members] == size], size
