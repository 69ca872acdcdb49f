"""Queries as trees of DuckDB's parser, and back as text that means the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import duckdb

from lazycache.query.sql.scope import Node

EMPTY_FROM: Node = {"type": "EMPTY", "alias": "", "sample": None}
"""The FROM clause of a query without one."""


def parsed(query: str, cursor: duckdb.DuckDBPyConnection) -> Node | None:
    """Return the tree of a query; None of one that has none, PIVOT or a mistake."""
    try:
        tree: Node = json.loads(_answer("SELECT json_serialize_sql(?)", query, cursor))
    except duckdb.Error:  # the query itself will say what is wrong with it
        return None
    return None if tree["error"] else tree


def written(tree: Node, cursor: duckdb.DuckDBPyConnection) -> str | None:
    """Return the text of a tree, if it parses back to the same tree."""
    try:
        text = _text(tree, cursor)
    except duckdb.Error:  # a node that DuckDB can read but not write
        return None
    back = parsed(text, cursor)
    return text if back is not None and _placeless(back) == _placeless(tree) else None


def expression_text(expression: Node, cursor: duckdb.DuckDBPyConnection) -> str:
    """Return the text of an expression, which is what DuckDB calls a column without alias."""
    statement = {"node": select([expression], EMPTY_FROM), "named_param_map": []}
    return _text({"error": False, "statements": [statement]}, cursor)[len("SELECT ") :]


def select(items: Sequence[Node], from_table: Node) -> Node:
    """Return a SELECT of a FROM clause, and nothing else."""
    return {
        "type": "SELECT_NODE",
        "modifiers": [],
        "cte_map": {"map": []},
        "select_list": list(items),
        "from_table": from_table,
        "where_clause": None,
        "group_expressions": [],
        "group_sets": [],
        "aggregate_handling": "STANDARD_HANDLING",
        "having": None,
        "sample": None,
        "qualify": None,
    }


def call(function: str, arguments: Sequence[Node]) -> Node:
    """Return a call of a function."""
    return {
        "class": "FUNCTION",
        "type": "FUNCTION",
        "alias": "",
        "function_name": function,
        "schema": "",
        "filter": None,
        "order_bys": {"type": "ORDER_MODIFIER", "orders": []},
        "distinct": False,
        "is_operator": False,
        "export_state": False,
        "catalog": "",
        "arguments": [{"name": "", "expression": one} for one in arguments],
        "qualified_name": {"path": [function]},
    }


def column(*names: str) -> Node:
    """Return a reference to a column."""
    return {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": list(names)}


def star() -> Node:
    """Return `*`."""
    lists = ("exclude_list", "replace_list", "qualified_exclude_list", "rename_list")
    node: Node = {"class": "STAR", "type": "STAR", "alias": "", "relation_name": ""}
    return {**node, "columns": False, "expr": None, **{key: [] for key in lists}}


def number(value: int) -> Node:
    """Return a whole number."""
    literal = {"kind": "INTEGER" if value < 1 << 31 else "BIGINT", "text": str(value)}
    return {"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "literal": literal}


def _text(tree: Node, cursor: duckdb.DuckDBPyConnection) -> str:
    return _answer("SELECT json_deserialize_sql(?::JSON)", json.dumps(tree), cursor)


def _answer(query: str, parameter: str, cursor: duckdb.DuckDBPyConnection) -> str:
    # fetched to the end: a cursor with an unfinished result can run nothing else
    [(answer,)] = cursor.execute(query, [parameter]).fetchall()
    return str(answer)


def _placeless(value: Any) -> Any:
    """Return a tree without the positions of its parts in the text.

    What `* REPLACE (...)` replaces has no order: DuckDB writes it in another one.
    """
    if isinstance(value, dict):
        return {
            key: _placeless(sorted(child, key=_key) if key == "replace_list" else child)
            for key, child in value.items()
            if not key.startswith("query_location") and key != "named_param_map"
        }
    if isinstance(value, list):
        return [_placeless(child) for child in value]
    return value


def _key(entry: Node) -> str:
    return str(entry["key"])
