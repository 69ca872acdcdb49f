"""The user's own tables in a query: what may be handed over, as Arrow.

A table is converted once and registered on the cursor of one query: no other query sees it, and
nothing of the machine is opened for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

import duckdb
import numpy as np
import pyarrow as pa
import torch

from lazycache.errors import QueryError

UserTables: TypeAlias = Mapping[str, pa.Table]
"""Name in SQL to rows."""

_KINDS = "a pandas or Polars DataFrame, an Arrow table, or a dict of columns"


def arrow_tables(tables: Mapping[str, Any] | None) -> UserTables:
    """Return the tables of a query as Arrow, independent of what the caller does to them later.

    Args:
        tables: Name in SQL to a pandas or Polars DataFrame, an Arrow table, record batch or
            reader, or a dict of columns: lists, numpy arrays, tensors, of one length. A tensor or
            array [rows, n] becomes a column FLOAT[n].

    Cost: copies what pandas, numpy and torch hold; Arrow and Polars share their memory.

    Raises:
        QueryError: something else, or columns that make no table; names the table and the column.

    Example:
        >>> arrow_tables({"labels": {"token": ["a", "b"], "w": torch.ones(2, 3)}})["labels"].shape
        (2, 2)
    """
    if tables is None:
        return {}
    if not isinstance(tables, Mapping) or not all(isinstance(name, str) for name in tables):
        raise QueryError(f'tables= is a dict of name to table, {{"labels": frame}}: {_KINDS}.')
    return {name: _arrow(name, table) for name, table in tables.items()}


def register(
    cursor: duckdb.DuckDBPyConnection, tables: UserTables, *, taken: Collection[str]
) -> None:
    """Make tables visible to the queries of a cursor.

    Raises:
        QueryError: a name is one of the dataset's, or twice, or a type is one DuckDB lacks.
    """
    seen = set(taken)
    # a dataset's name alone too: `tokens` would be asked for what `base.tokens` says
    own = {name.rsplit(".", 1)[-1] for name in taken}
    for name, table in tables.items():
        lowered = name.lower()
        if not name or lowered in own | seen or lowered.startswith("lazycache"):
            raise QueryError(
                f"A table of yours cannot be called {name!r}: the dataset has one of that name, or "
                "the name is empty or given twice (SQL does not see case). Call it something else."
            )
        seen.add(lowered)
        try:
            cursor.register(name, table)
        except duckdb.Error as exc:
            raise QueryError(
                f"The table {name!r} has a column of a type that SQL cannot take, of "
                f"{_types(table)}: {exc}"
            ) from exc


def _types(table: pa.Table) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in table.schema)


def _arrow(name: str, table: Any) -> pa.Table:
    try:
        found = _converted(name, table)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        if isinstance(exc, QueryError):
            raise
        raise QueryError(f"The table {name!r} cannot be used in SQL: {exc}") from exc
    if not found.num_columns:
        raise QueryError(f"The table {name!r} has no columns.")
    return found.cast(pa.schema([field.with_type(_wide(field.type)) for field in found.schema]))


def _wide(kind: pa.DataType) -> pa.DataType:
    """Return a type without 16-bit floats, which DuckDB does not have."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_wide(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_wide(kind.value_type))
    return pa.float32() if pa.types.is_float16(kind) else kind


def _converted(name: str, table: Any) -> pa.Table:
    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if isinstance(table, pa.RecordBatchReader):
        return table.read_all()
    if isinstance(table, Mapping):
        return pa.table({str(key): _column(name, key, values) for key, values in table.items()})
    module = type(table).__module__.partition(".")[0]
    if module == "pandas" and hasattr(table, "columns"):
        return pa.Table.from_pandas(table.copy(), preserve_index=False).replace_schema_metadata()
    if module == "polars" and hasattr(table, "to_arrow") and hasattr(table, "columns"):
        found: pa.Table = table.to_arrow()
        return found
    raise QueryError(
        f"The table {name!r} is a {type(table).__name__}; {_KINDS} is what a query can use."
    )


def _column(table: str, name: object, values: Any) -> Any:
    if callable(getattr(values, "load", None)):
        raise QueryError(f"The column {name!r} of {table!r} is lazy: hand over its .load().")
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        values = values.numpy()
    if isinstance(values, np.ndarray):
        if not values.ndim:
            raise QueryError(f"The column {name!r} of {table!r} is one value: give one per row.")
        return _nested(np.array(values))
    if isinstance(values, str | bytes | AbstractSet | Mapping) or not hasattr(values, "__len__"):
        raise QueryError(
            f"The column {name!r} of {table!r} is a {type(values).__name__}, no list of values."
        )
    if type(values).__module__.partition(".")[0] == "pandas" and hasattr(values, "copy"):
        return values.copy()  # Arrow would share the memory of a Series
    return values


def _nested(values: np.ndarray) -> pa.Array:
    """Return [rows, ...] as nested lists of fixed size."""
    if values.ndim == 1:
        return pa.array(values)
    found = pa.array(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        if not size:
            raise QueryError("A column of vectors without numbers is no column of SQL.")
        found = pa.FixedSizeListArray.from_arrays(found, size)
    return found
