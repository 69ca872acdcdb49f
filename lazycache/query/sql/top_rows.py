"""`ORDER BY unit(site, i) LIMIT k` over one whole table, answered as `cache.top_k` is.

The rows are found by what is stored of them when the query first runs; the query then runs over
these rows alone. What is not understood runs as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lazycache.cache.aggregates.topk import best_rows
from lazycache.cache.reading.source import Fixed, Source
from lazycache.cache.selecting.examples import one_row_each
from lazycache.cache.selecting.selection import Dense
from lazycache.cache.selecting.spans import of_ranges
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.query.sql import trees
from lazycache.query.sql.predicates import nodes
from lazycache.query.sql.scope import ROW, Node, Scopes, find
from lazycache.query.sql.scope import Source as From

if TYPE_CHECKING:
    from lazycache.query.sql.lazy_column import LazyColumn
    from lazycache.query.sql.members import Kept

UNIT = "unit"

MOST_ROWS = 10_000
"""More rows are not named one by one in a query."""

PLAIN = frozenset({UNIT, "head", "dot", "norm", "cosine", "round", "abs", "lower", "upper", "len"})
"""Functions of a select list that are of one row: an aggregate would be one of all rows."""

CLASSES = frozenset(
    {
        *("COLUMN_REF", "CONSTANT", "FUNCTION", "PARAMETER", "STAR", "CAST"),
        *("COMPARISON", "CONJUNCTION", "OPERATOR", "CASE", "BETWEEN"),
    }
)
"""Nodes of a select list that are of one row."""

Lazy = Mapping[tuple[str, str], "LazyColumn"]
"""Lazy columns by table and name, in lower case."""


@dataclass(frozen=True, slots=True)
class TopQuery:
    """A query for the best rows of one unit of a table."""

    table: str
    """The table, as it is written in SQL, in lower case."""
    column: LazyColumn
    """The site."""
    unit: tuple[int, ...]
    """The unit; not checked."""
    rows: int
    """How many rows, those that are left out by OFFSET too."""
    largest: bool
    """Or the smallest."""
    row: tuple[str, ...]
    """The column in which the row can be seen."""


def is_likely(text: str) -> bool:
    """Say whether a query may be one: parsing it takes longer than this."""
    lowered = text.lower()
    return all(word in lowered for word in (UNIT, "order", "limit"))


def top_query(
    tree: Node, *, tables: Mapping[str, Sequence[str]], lazy: Lazy, params: Mapping[str, Any]
) -> TopQuery | None:
    """Return what a parsed query asks for, if it is this question and no other. Pure."""
    statements = tree["statements"]
    if len(statements) != 1 or not _is_plain(statements[0]["node"]):
        return None
    node = statements[0]["node"]
    order, limit = node["modifiers"]
    sources = Scopes(tables).sources(node["from_table"], {})
    call = _ordered_by(node, order["orders"][0]["expression"])
    if call is None or len(sources) != 1:
        return None
    found = _site_of(call, sources, hidden=_names_given(node), lazy=lazy)
    numbers = [_integer(a["expression"], params) for a in call["arguments"][1:]]
    rows = [_integer(limit[part], params) if limit[part] else 0 for part in ("limit", "offset")]
    unit, counts = [n for n in numbers if n is not None], [n for n in rows if n is not None]
    if found is None or len(unit) < len(numbers) or len(counts) < len(rows) or min(counts) < 0:
        return None
    table, column, row = found
    kind, nulls = order["orders"][0]["type"], order["orders"][0]["null_order"]
    if nulls == "NULLS FIRST" and not column.complete:
        return None
    if len(unit) != len(column.spec.shape) or not 0 < sum(counts) <= MOST_ROWS or not counts[0]:
        return None
    return TopQuery(table, column, tuple(unit), sum(counts), kind == "DESCENDING", row)


def rows_of(query: TopQuery, reader: Any, kept: Kept) -> np.ndarray | None:
    """Return the best rows; None where the stored statistics do not say more than the values.

    Cost: as `cache.top_k`.
    """
    spec = query.column.spec
    inside = all(-size <= i < size for i, size in zip(query.unit, spec.shape, strict=True))
    known = getattr(reader, "statistics", None)
    if not inside or known is None or known(spec.name) is None:
        return None
    there = of_ranges(*reader.covered_spans(spec.name))
    table = spec.table
    if table in kept:
        there &= of_ranges(*kept[table])
    # with fewer, rows without a value are in the answer too
    if there.count < query.rows:
        return None
    rows = there.rows()
    source = Source(reader, spec, "", Fixed(one_row_each(0)), budget_bytes=0)
    x = LazyTensor(source, lead=Dense(rows))[(slice(None), *query.unit)]
    return best_rows(x, query.rows, largest=query.largest)[1][:, 0]


def among(tree: Node, query: TopQuery, rows: np.ndarray) -> Node:
    """Return a query over some rows alone."""
    found = deepcopy(tree)
    numbers = [trees.number(row) for row in np.sort(rows).tolist()]
    found["statements"][0]["node"]["where_clause"] = {
        "class": "OPERATOR",
        "type": "COMPARE_IN",
        "alias": "",
        "children": [trees.column(*query.row), *numbers],
    }
    return found


def _is_plain(node: Node) -> bool:
    """Whether a query is a select list of one table, an order and a limit, and nothing else."""
    rest = ("where_clause", "group_expressions", "group_sets", "having", "qualify", "sample")
    if node["type"] != "SELECT_NODE" or any(node.get(part) for part in rest):
        return False
    table, kinds = node["from_table"], [modifier["type"] for modifier in node["modifiers"]]
    if kinds != ["ORDER_MODIFIER", "LIMIT_MODIFIER"] or len(node["modifiers"][0]["orders"]) != 1:
        return False
    if node["modifiers"][1].get("limit_type", "ROW_COUNT") != "ROW_COUNT":
        return False
    if node["cte_map"]["map"] or table["type"] != "BASE_TABLE":
        return False
    if table.get("sample") or table.get("at_clause") or table.get("column_name_alias"):
        return False
    return all(
        part["class"] in CLASSES and _is_of_one_row(part)
        for item in node["select_list"]
        for part in nodes(item)
        if "class" in part
    )


def _is_of_one_row(part: Node) -> bool:
    if part["class"] != "FUNCTION":
        return True
    return bool(part["is_operator"]) or part["function_name"].lower() in PLAIN


def _ordered_by(node: Node, expression: Node) -> Node | None:
    """Return the call that a query is ordered by, also where it is named in the select list."""
    if expression["class"] == "COLUMN_REF" and len(expression["column_names"]) == 1:
        name = expression["column_names"][0].lower()
        named = [item for item in node["select_list"] if item["alias"].lower() == name]
        expression = named[0] if len(named) == 1 else expression
    plain = expression["class"] == "FUNCTION" and expression["function_name"].lower() == UNIT
    return expression if plain and expression["arguments"] else None


def _names_given(node: Node) -> frozenset[str]:
    return frozenset(item["alias"].lower() for item in node["select_list"] if item["alias"])


def _site_of(
    call: Node, sources: Sequence[From], *, hidden: frozenset[str], lazy: Lazy
) -> tuple[str, LazyColumn, tuple[str, ...]] | None:
    """Return table, site and the column of the row, of a plain call of `unit` on a column."""
    site = call["arguments"][0]["expression"]
    odd = call["schema"] or call["catalog"] or call["distinct"] or call["filter"]
    named = any(argument["name"] for argument in call["arguments"])
    if odd or named or site["class"] != "COLUMN_REF":
        return None
    if len(site["column_names"]) == 1 and site["column_names"][0].lower() in hidden:
        return None
    found = find(site["column_names"], sources)
    if found is None:
        return None
    source, cell = found
    column, row = lazy.get((cell.table, cell.column)), source.row_of(cell)
    if column is None or row is None or row != ROW:
        return None
    return cell.table, column, (*source.path, row)


def _integer(node: Node, params: Mapping[str, Any]) -> int | None:
    """Return a whole number that is written or given as a parameter."""
    if node["class"] == "PARAMETER":
        value = params.get(node["identifier"])
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if node["class"] != "CONSTANT" or node["literal"]["kind"] not in {"INTEGER", "BIGINT"}:
        return None
    return int(node["literal"]["text"])
