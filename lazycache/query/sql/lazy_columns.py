"""One lazy column: two SQL functions that read a site's values for the rows they are asked for.

DuckDB evaluates a function only for rows that the cheaper predicates left over, 2,048 at a time.
So a view column `"site:NAME"(row)` is read for these rows alone, and `"unit:NAME"(row, i)` reads
only that unit of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from duckdb.func import FunctionNullHandling, PythonUDFType

from lazycache.codec import dtypes
from lazycache.errors import QueryError

if TYPE_CHECKING:
    import duckdb

    from lazycache.query.sql.activity import Activity
    from lazycache.query.sql.failures import ReadFailures
    from lazycache.types import SiteSpec

LARGEST_ARRAY = 99_999
"""DuckDB refuses longer fixed-size arrays; a longer dimension (a vocabulary) becomes a list."""


class RowReader(Protocol):
    """What SQL needs of the reader of shards."""

    def take(self, site: str, rows: np.ndarray, *, units: tuple[Any, ...] = ()) -> torch.Tensor:
        """Values of rows that the site covers, in the order asked for."""
        ...

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Which of the rows the site has."""
        ...


@dataclass(frozen=True, slots=True)
class LazyColumn:
    """A site as SQL sees it."""

    spec: SiteSpec
    """The site."""
    name: str
    """Its column: the site's name, with a suffix where another column differs in case only."""
    complete: bool
    """Whether every row of the table has a value, so that none needs to be looked up."""

    @property
    def value_function(self) -> str:
        """SQL function of a row: the whole value."""
        return f"site:{self.name}"

    @property
    def unit_function(self) -> str:
        """SQL function of a row and one index per dimension: one number."""
        return f"unit:{self.name}"

    @property
    def scalar_type(self) -> str:
        """SQL type of one unit."""
        return dtypes.by_name(self.spec.dtype).duckdb

    @property
    def value_type(self) -> str:
        """SQL type of the whole value: `FLOAT[64][12]` for 12 heads of 64."""
        return self.scalar_type + "".join(
            f"[{size}]" if _fits_array(size) else "[]" for size in reversed(self.spec.shape)
        )


def register(
    connection: duckdb.DuckDBPyConnection,
    column: LazyColumn,
    *,
    reader: RowReader,
    failures: ReadFailures,
    activity: Activity,
) -> None:
    """Create the column's two functions."""

    def values(rows: Any) -> pa.Array:
        with failures.carried(), activity.function():
            return read_values(reader, column, rows=rows)

    def units(rows: Any, *indices: Any) -> pa.Array:
        with failures.carried(), activity.function():
            return read_units(reader, column, rows=rows, indices=indices)

    _create(connection, column.value_function, values, 1, column.value_type)
    if column.spec.shape:
        arguments = 1 + len(column.spec.shape)
        _create(connection, column.unit_function, units, arguments, column.scalar_type)


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


def read_values(reader: RowReader, column: LazyColumn, *, rows: Any) -> pa.Array:
    """Return the values of the rows as `column.value_type`; NULL where the site has none."""
    ids, present = _present(reader, column, rows)
    found = _numpy(reader.take(column.spec.name, ids[present]), column) if present.any() else None
    shape = column.spec.shape
    if present.all() and found is not None:
        return _nested(found, shape, missing=None)
    values = np.zeros((len(ids), *shape), found.dtype if found is not None else _dtype(column))
    if found is not None:
        values[present] = found
    return _nested(values, shape, missing=~present)


def read_units(
    reader: RowReader, column: LazyColumn, *, rows: Any, indices: tuple[Any, ...]
) -> pa.Array:
    """Return one number per row; NULL where the site has no value or an index is NULL."""
    ids, present = _present(reader, column, rows)
    wanted = np.zeros((len(ids), len(indices)), np.int64)
    for axis, index in enumerate(indices):
        numbers, known = _integers(index)
        wanted[:, axis] = numbers
        present &= known
    values = np.zeros(len(ids), _dtype(column))
    for unit, members in _groups(wanted, present):
        index = check_unit(column.spec, unit)
        values[members] = _numpy(reader.take(column.spec.name, ids[members], units=index), column)
    return pa.array(values, mask=~present)


def check_unit(spec: SiteSpec, unit: tuple[int, ...]) -> tuple[int, ...]:
    """Return a 0-based index with negative numbers counted from the end, as torch does.

    Raises:
        QueryError: outside the site's shape.
    """
    for index, size in zip(unit, spec.shape, strict=True):
        if not -size <= index < size:
            asked = ", ".join(map(str, unit))
            raise QueryError(
                f"unit({spec.name}, {asked}) is outside the shape {list(spec.shape)} of the site: "
                "indices are 0-based, as in torch."
            )
    return tuple(index % size for index, size in zip(unit, spec.shape, strict=True))


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


def _present(reader: RowReader, column: LazyColumn, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the row ids, and which of them have a value."""
    ids, present = _integers(rows)
    if not column.complete and present.any():
        present[present] = reader.covered(column.spec.name, ids[present])
    return ids, present


def _integers(values: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    known = np.ones(len(array), bool)
    if array.null_count:
        known = array.is_valid().to_numpy(zero_copy_only=False)
        array = array.fill_null(0)
    return array.to_numpy(zero_copy_only=False), known


def _dtype(column: LazyColumn) -> np.dtype[Any]:
    dtype = dtypes.by_name(column.spec.dtype)
    # DuckDB has no 16-bit float: every float16 is a float32
    return np.dtype("float32") if dtype.duckdb == "FLOAT" else dtype.widened


def _numpy(values: torch.Tensor, column: LazyColumn) -> np.ndarray:
    widened = values.to(torch.float32) if column.scalar_type == "FLOAT" else values
    return widened.contiguous().numpy()


def _nested(values: np.ndarray, shape: tuple[int, ...], *, missing: np.ndarray | None) -> pa.Array:
    """Return [rows, *shape] as nested Arrow lists; `missing` rows are NULL."""
    mask = None if missing is None else pa.array(missing)
    if not shape:
        return pa.array(values, mask=missing)
    nested = pa.array(values.reshape(-1))
    for axis in range(len(shape), 0, -1):
        size = shape[axis - 1]
        outer = mask if axis == 1 else None
        count = len(values) * math.prod(shape[: axis - 1])
        if _fits_array(size):
            nested = pa.FixedSizeListArray.from_arrays(nested, size, mask=outer)
        else:
            # 64-bit offsets: rows times a vocabulary pass 2**31
            offsets = pa.array(np.arange(count + 1, dtype=np.int64) * size)
            nested = pa.LargeListArray.from_arrays(offsets, nested, mask=outer)
    return nested


def _fits_array(size: int) -> bool:
    return 0 < size <= LARGEST_ARRAY
