"""What the tables say of selected rows: columns, in the order of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from lazycache.cache.tables import conditions
from lazycache.cache.tables.conditions import BATCH_ROWS, Tables, checked, columns_of, quoted
from lazycache.cache.tables.row_origins import Origin
from lazycache.errors import QueryError
from lazycache.types import EXAMPLES

if TYPE_CHECKING:
    import pyarrow as pa

DENSE = 8
"""Rows among which one is wanted at least, where all are looked at: else these are asked for."""

Encode = Callable[["pa.Array"], "pa.Array"]
"""Makes a column smaller as it comes in."""


def table_of(
    origins: Sequence[Origin], names: Sequence[str], *, count: int, encode: Encode | None = None
) -> pa.Table:
    """Return columns of `count` rows, in their order: each the name of one, or an expression.

    Cost: reads the index, the rows between the first and the last that are wanted or, where these
    are few, these alone; no shard, unless an expression names a site. In memory are the columns.

    Raises:
        QueryError: there is no such column; names the nearest.
    """
    import pyarrow as pa  # loaded when it is used: reading tensors does without

    parts = [_fetched(one.tables, one.table, one.rows, names, encode) for one in origins]
    if len(parts) == 1 and isinstance(origins[0].members, slice):
        return parts[0]
    places = np.empty(count, dtype=np.int64)
    done = 0
    for one in origins:
        places[one.members] = np.arange(done, done + len(one.rows))
        done += len(one.rows)
    merged = pa.concat_tables(parts, promote_options="permissive").unify_dictionaries()
    return merged.combine_chunks().take(places)


def _fetched(
    tables: Tables, table: str, rows: np.ndarray, names: Sequence[str], encode: Encode | None
) -> pa.Table:
    import pyarrow as pa  # loaded when it is used: reading tensors does without

    wanted, back = rows, None
    if (rows[1:] <= rows[:-1]).any():
        wanted, back = np.unique(rows, return_inverse=True)
    query = _query(tables, table, names)
    batches = list(_batches(tables, query, f"{table}.row", wanted, encode))
    found = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    numbers = found.column(0).to_numpy()
    if len(numbers) != len(wanted):
        raise QueryError(f"{table} has {len(numbers):,} of {len(wanted):,} rows that are selected.")
    order = None if (numbers[1:] > numbers[:-1]).all() else np.argsort(numbers)
    if back is not None:
        order = back if order is None else order[back]
    found = found.drop_columns(["row"]).rename_columns(list(names))
    return found if order is None else found.take(order)


def _query(tables: Tables, table: str, names: Sequence[str]) -> str:
    """Return the query for the columns of all rows, up to its condition.

    Raises:
        QueryError: there is no such column.
    """
    known = {name.lower() for part in (table, EXAMPLES) for name in columns_of(tables, part)}
    texts = [_expression(name, known, tables) for name in names]
    shown = ", ".join(f"(\n{text}\n) AS c{i}" for i, text in enumerate(texts))
    failure: QueryError | None = None
    for source in conditions.sources(tables, table):
        query = f"SELECT {table}.row AS row, {shown} FROM {source}"  # noqa: S608  # checked
        try:
            tables.sql(query).close()
        except QueryError as exc:
            failure = exc
        else:
            return query
    raise failure or QueryError("There is no table.")


def _expression(name: str, known: set[str], tables: Tables) -> str:
    """Return the SQL of a column: quoted where it is the name of one."""
    if isinstance(name, str) and name.lower() in known:
        return quoted(name)
    return checked(name, tables, what="The column")


def _batches(
    tables: Tables, query: str, row: str, wanted: np.ndarray, encode: Encode | None
) -> Iterator[pa.RecordBatch]:
    """Yield the wanted rows, which ascend; of none, one batch without rows."""
    if not len(wanted):
        yield from _answer(tables, f"{query} WHERE false", None, wanted, encode)
        return
    first, last = int(wanted[0]), int(wanted[-1])
    if len(wanted) * DENSE > last - first:
        between = f"{query} WHERE {row} BETWEEN {first} AND {last}"
        yield from _answer(tables, between, None, wanted, encode)
        return
    for start in range(0, len(wanted), BATCH_ROWS):
        part = wanted[start : start + BATCH_ROWS]
        some = f"{query} WHERE {row} IN (SELECT unnest(?::BIGINT[]))"
        yield from _answer(tables, some, [part], part, encode)


def _answer(
    tables: Tables, query: str, params: Any, wanted: np.ndarray, encode: Encode | None
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa  # loaded when it is used: reading tensors does without

    with closing(tables.sql(query, params)) as result:
        for batch in _or_none(result):
            numbers = batch.column(0).to_numpy()
            at = np.searchsorted(wanted, numbers).clip(max=max(0, len(wanted) - 1))
            mine = wanted[at] == numbers if len(wanted) else np.zeros(0, dtype=np.bool_)
            kept = batch if mine.all() else batch.filter(pa.array(mine))
            if encode is not None:
                columns = [kept.column(0), *map(encode, kept.columns[1:])]
                kept = pa.RecordBatch.from_arrays(columns, names=kept.schema.names)
            yield kept


def _or_none(result: Any) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an answer; of one without rows, one that says its types."""
    import pyarrow as pa  # loaded when it is used: reading tensors does without

    empty = True
    for batch in result.batches(BATCH_ROWS):
        empty = False
        yield batch
    if empty:
        schema = result.arrow().schema
        yield pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)
