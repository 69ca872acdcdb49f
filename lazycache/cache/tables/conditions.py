"""Conditions and expressions of SQL about the rows of a table: checked, then asked.

Columns are those of the table and, by run and example, those of `examples`; where both have one of
a name, the table's is meant. What a caller writes is one expression: it is parsed by itself before
it becomes part of a query, so that it cannot be anything else there.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lazycache.cache.selecting import spans
from lazycache.errors import QueryError
from lazycache.types import EXAMPLES, TOKENS

if TYPE_CHECKING:
    from lazycache.cache.selecting.spans import Spans
    from lazycache.catalog.snapshot import Snapshot

Params = Sequence[Any] | Mapping[str, Any] | None
"""Values for `?` or `$1` (a sequence) or `$name` (a mapping)."""

ROW = '"row of examples"'
"""The column `row` of `examples` beside another table's."""

ASKED = '"row that is asked for"'
"""The alias of the rows of an answer: a condition may mean an alias, and `row` is the table's."""

BATCH_ROWS = 1 << 16
"""Rows of an answer that are looked at at once."""


class Tables(Protocol):
    """Tables that can be asked: a `StoredSites`."""

    @property
    def snapshot(self) -> Snapshot:
        """What there is."""
        ...

    def sql(self, query: str, params: Params = None) -> Any:
        """Return the result of one query."""
        ...


def checked(text: object, tables: Tables, *, what: str) -> str:
    """Return `text` if it is one expression of SQL. Reads nothing.

    Raises:
        QueryError: it is not: a statement, several expressions, a parenthesis too many.
    """
    if not isinstance(text, str):
        raise QueryError(f"{what} is SQL in a text, not {type(text).__name__}.")
    text = text.rstrip().removesuffix(";")  # as after a statement; it may not follow inside one
    with closing(tables.sql("SELECT json_serialize_sql(?)", [f"SELECT {text}\n"])) as result:
        parsed = json.loads(result.fetchone()[0])
    if parsed["error"]:
        raise QueryError(f"{what} {text!r} is no expression of SQL: {parsed['error_message']}")
    nodes = [statement["node"] for statement in parsed["statements"]]
    if len(nodes) != 1 or not _is_expression(nodes[0]):
        raise QueryError(
            f"{what} {text!r} is not one expression, such as {_EXAMPLE[what]!r}. For a whole query "
            "there is cache.sql(...)."
        )
    return text


_EXAMPLE = {"The condition": "label = 'x' AND position > 0", "The column": "label"}


def _is_expression(node: dict[str, Any]) -> bool:
    """Whether a query is SELECT and one expression, and nothing else."""
    rest = ("where_clause", "group_expressions", "having", "qualify", "sample", "modifiers")
    return (
        node["type"] == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and not node["select_list"][0].get("alias")
        and node["select_list"][0]["class"] != "STAR"
        and node["from_table"]["type"] == "EMPTY"
        and not any(node.get(part) for part in rest)
        and not node["cte_map"]["map"]
    )


def columns_of(tables: Tables, table: str) -> tuple[str, ...]:
    """Return the columns of a table, sites included. Reads nothing."""
    with closing(tables.sql(f"FROM {table}")) as result:
        names: tuple[str, ...] = result.columns
        return names


def sources(tables: Tables, table: str) -> Iterator[str]:
    """Yield FROM clauses: a table; beside it, the columns of `examples` that it lacks.

    The first that has all columns is the one to ask: a join costs time and adds no row.
    """
    yield table
    if table != EXAMPLES:
        yield f"{table} LEFT JOIN {_beside(tables, table)} USING (run, example)"


def alone(tables: Tables) -> str:
    """Return a FROM clause: of `examples` the columns that only it has, beside run and example."""
    return _beside(tables, TOKENS)


def _beside(tables: Tables, table: str) -> str:
    own = {name.lower() for name in columns_of(tables, table)}
    theirs = [name for name in columns_of(tables, EXAMPLES) if name.lower() not in own]
    shown = ", ".join(["run", "example", f"row AS {ROW}", *map(quoted, theirs)])
    return f"(SELECT {shown} FROM {EXAMPLES}) AS {EXAMPLES}"  # noqa: S608  # our own names, quoted


def quoted(name: str) -> str:
    """Return a name as SQL takes any name.

    Example:
        >>> quoted("my label")
        '"my label"'
    """
    return '"' + name.replace('"', '""') + '"'


def kept(tables: Tables, source: str, row: str, condition: str, params: Params) -> Generator[Any]:
    """Ask for the rows of a FROM clause that satisfy a checked condition.

    The first entry is None, when it is clear that the question can be asked; then come batches of
    rows. Close it to stop.

    Raises:
        QueryError: there is no such column; names the nearest. Or a value does not fit.
    """
    # the condition has lines of its own: it may end in a comment
    query = f"SELECT {row} AS {ASKED} FROM {source} WHERE (\n{condition}\n)"  # noqa: S608  # checked
    with closing(tables.sql(query, params)) as result:
        yield None
        for batch in result.batches(BATCH_ROWS):
            yield batch.column(0).to_numpy()


def spans_of(batches: Iterator[np.ndarray]) -> Spans:
    """Return batches of rows as ranges: they are never held one by one."""
    found = [spans.of_rows(batch) for batch in batches if len(batch)]
    empty = np.empty(0, dtype=np.int64)
    starts = np.concatenate([empty, *(one.starts for one in found)])
    return spans.of_ranges(starts, np.concatenate([empty, *(one.stops for one in found)]))
