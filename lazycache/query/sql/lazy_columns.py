"""The functions of lazy columns: they read a site's values for the rows they are asked for.

DuckDB evaluates a function only for rows that the cheaper predicates left over, 2,048 at a time.
So a view column `"site:NAME"(row)` is read for these rows alone, `"unit:NAME"(row, i)` reads
only that unit of them, and `"head:NAME"(row, h)` that head. `"measure:NAME"(row, n)` gives the n-th
measure of the connection, a dot product with a vector say: one number, so that neither the values
nor the vector ever become numbers of DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from duckdb.func import FunctionNullHandling, PythonUDFType

from lazycache.cache.reading.row_reader import RowReader
from lazycache.cache.selecting.plan import as_range
from lazycache.codec import dtypes
from lazycache.query.sql import ragged_columns
from lazycache.query.sql.arrow_lists import array_of, nested, numbers_of
from lazycache.query.sql.lazy_column import LazyColumn, check_unit

if TYPE_CHECKING:
    import duckdb

    from lazycache.query.sql.activity import Activity
    from lazycache.query.sql.failures import ReadFailures
    from lazycache.query.sql.measures import Measures

Arrow: TypeAlias = "pa.Array | pa.ChunkedArray"
"""An argument of a function, as DuckDB gives it."""


def register(
    connection: duckdb.DuckDBPyConnection,
    column: LazyColumn,
    *,
    reader: RowReader,
    failures: ReadFailures,
    activity: Activity,
) -> None:
    """Create the column's functions; what they are called begins with `column.prefix`."""

    def values(rows: Arrow) -> pa.Array:
        with failures.carried(), activity.function():
            return read_values(reader, column, rows=rows)

    def units(rows: Arrow, *indices: Arrow) -> pa.Array:
        with failures.carried(), activity.function():
            return read_units(reader, column, rows=rows, indices=indices)

    def heads(rows: Arrow, numbers: Arrow) -> pa.Array:
        with failures.carried(), activity.function():
            return read_heads(reader, column, rows=rows, heads=numbers)

    def measures(rows: Arrow, numbers: Arrow) -> pa.Array:
        with failures.carried(), activity.function():
            return read_measures(
                reader, column, rows=rows, numbers=numbers, measures=activity.measures
            )

    _create(connection, column.value_function, values, 1, column.value_type)
    if column.spec.shape:
        arguments = 1 + len(column.spec.shape)
        _create(connection, column.unit_function, units, arguments, column.scalar_type)
    if column.has_heads:
        _create(connection, column.head_function, heads, 2, column.head_type)
    if column.is_measured:
        _create(connection, column.measure_function, measures, 2, column.measure_type)


def _create(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    function: Callable[..., Any],
    arguments: int,
    result: str,
) -> None:
    # DuckDB counts the parameters of a function; one with *indices says how many it takes
    names = [Parameter(f"p{n}", Parameter.POSITIONAL_ONLY) for n in range(arguments)]
    function.__signature__ = Signature(names)  # type: ignore[attr-defined]
    # "special": NULL rows (of an outer join) and missing values are ours to answer with NULL
    connection.create_function(
        name,
        function,
        ["BIGINT"] * arguments,
        result,
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
    )


def read_values(reader: RowReader, column: LazyColumn, *, rows: Arrow) -> pa.Array:
    """Return the values of the rows as `column.value_type`; NULL where the site has none."""
    ids, present = _present(reader, column, rows)
    if column.ragged:
        return ragged_columns.values(reader, column.spec, ids, present)
    groups = [((), np.flatnonzero(present))] if present.any() else []
    return _read(reader, column, ids, present, groups, column.spec.shape)


def read_heads(reader: RowReader, column: LazyColumn, *, rows: Arrow, heads: Arrow) -> pa.Array:
    """Return an entry of the first dimension as `column.head_type`; NULL where there is none."""
    ids, present = _present(reader, column, rows)
    numbers, known = _integers(heads)
    present &= known
    groups = [
        (check_unit(column.spec, head, called="head"), members)
        for head, members in _groups(numbers[:, None], present)
    ]
    if column.ragged:
        return ragged_columns.heads(reader, column.spec, ids, present, groups)
    return _read(reader, column, ids, present, groups, column.spec.shape[1:])


def read_measures(
    reader: RowReader, column: LazyColumn, *, rows: Arrow, numbers: Arrow, measures: Measures
) -> pa.Array:
    """Return one number per row as `column.measure_type`: that of a measure of a query."""
    ids, present = _present(reader, column, rows)
    asked, known = _integers(numbers)
    present &= known
    values = np.zeros(len(ids), "float32" if column.measure_type == "FLOAT" else "float64")
    for (number,), members in _groups(asked[:, None], present):
        at = 0
        for block in _blocks(reader, column, ids[members], measures[number].units):
            found, missing = measures[number].of(block)
            places, at = members[at : at + len(block)], at + len(block)
            values[places] = found.numpy()
            if missing is not None:
                present[places[missing.numpy()]] = False
    return array_of(values, missing=~present)


def _blocks(
    reader: RowReader, column: LazyColumn, ids: np.ndarray, units: tuple[int, ...]
) -> Iterator[torch.Tensor]:
    """Yield values of the rows in order, to be read and dropped; of a local run without a copy."""
    run = as_range(ids)
    if run is None or run.step != 1:
        yield reader.take(column.spec.name, ids, units=units)
    else:
        yield from reader.scan(column.spec.name, run, units=units, block_rows=len(run))


def read_units(
    reader: RowReader, column: LazyColumn, *, rows: Arrow, indices: tuple[Arrow, ...]
) -> pa.Array:
    """Return one number per row; NULL where the site has no value or an index is NULL."""
    ids, present = _present(reader, column, rows)
    wanted = np.zeros((len(ids), len(indices)), np.int64)
    for axis, index in enumerate(indices):
        numbers, known = _integers(index)
        wanted[:, axis] = numbers
        present &= known
    if column.ragged:
        groups = [
            (check_unit(column.spec, head, called="unit"), members)
            for head, members in _groups(wanted[:, :1], present)
        ]
        return ragged_columns.units(reader, column.spec, ids, wanted[:, 1], groups)
    taken = [
        (members, _numpy(reader.take(column.spec.name, ids[members], units=index), column))
        for unit, members in _groups(wanted, present)
        for index in [check_unit(column.spec, unit)]
    ]
    if len(taken) == 1 and present.all():
        return array_of(taken[0][1])
    values = np.zeros(len(ids), _dtype(column))
    for members, found in taken:
        values[members] = found
    return array_of(values, missing=~present)


def _read(
    reader: RowReader,
    column: LazyColumn,
    ids: np.ndarray,
    present: np.ndarray,
    groups: Sequence[tuple[tuple[int, ...], np.ndarray]],
    shape: tuple[int, ...],
) -> pa.Array:
    """Return a part of the rows as nested lists: of each group of places those units."""
    taken = [
        (members, _numpy(reader.take(column.spec.name, ids[members], units=units), column))
        for units, members in groups
    ]
    if len(taken) == 1 and present.all():
        return nested(taken[0][1], shape, missing=None)
    values = np.zeros((len(ids), *shape), _dtype(column))
    for members, found in taken:
        values[members] = found
    return nested(values, shape, missing=~present)


def _groups(
    wanted: np.ndarray, present: np.ndarray
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yield each index that is asked for and the positions that ask for it."""
    members = np.flatnonzero(present)
    if not len(members):
        return
    asked = wanted[members]
    if (asked == asked[0]).all():  # unit(site, 412): one index for all rows
        yield tuple(asked[0].tolist()), members
        return
    units, which = np.unique(asked, axis=0, return_inverse=True)
    for number, unit in enumerate(units):
        yield tuple(unit.tolist()), members[which.reshape(-1) == number]


def _present(reader: RowReader, column: LazyColumn, rows: Arrow) -> tuple[np.ndarray, np.ndarray]:
    """Return the row ids, and which of them have a value."""
    ids, present = _integers(rows)
    if not column.complete and present.any():
        present[present] = reader.covered(column.spec.name, ids[present])
    return ids, present


def _integers(values: Arrow) -> tuple[np.ndarray, np.ndarray]:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return numbers_of(array)


def _dtype(column: LazyColumn) -> np.dtype[Any]:
    dtype = dtypes.by_name(column.spec.dtype)
    # DuckDB has no 16-bit float: every float16 is a float32
    return np.dtype("float32") if dtype.duckdb == "FLOAT" else dtype.widened


def _numpy(values: torch.Tensor, column: LazyColumn) -> np.ndarray:
    widened = values.to(torch.float32) if column.scalar_type == "FLOAT" else values
    return widened.contiguous().numpy()
