"""Queries as trees of DuckDB's parser, and back as text that means the same."""

from __future__ import annotations

import json
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
    node: Node = {
        "type": "SELECT_NODE",
        "modifiers": [],
        "cte_map": {"map": []},
        "select_list": [expression],
        "from_table": EMPTY_FROM,
        "where_clause": None,
        "group_expressions": [],
        "group_sets": [],
        "aggregate_handling": "STANDARD_HANDLING",
        "having": None,
        "sample": None,
        "qualify": None,
    }
    statement = {"node": node, "named_param_map": []}
    return _text({"error": False, "statements": [statement]}, cursor)[len("SELECT ") :]


def _text(tree: Node, cursor: duckdb.DuckDBPyConnection) -> str:
    return _answer("SELECT json_deserialize_sql(?::JSON)", json.dumps(tree), cursor)


def _answer(query: str, parameter: str, cursor: duckdb.DuckDBPyConnection) -> str:
    # fetched to the end: a cursor with an unfinished result can run nothing else
    [(answer,)] = cursor.execute(query, [parameter]).fetchall()
    return str(answer)


def _placeless(value: Any) -> Any:
    """Return a tree without the positions of its parts in the text."""
    if isinstance(value, dict):
        return {
            key: _placeless(child)
            for key, child in value.items()
            if not key.startswith("query_location") and key != "named_param_map"
        }
    if isinstance(value, list):
        return [_placeless(child) for child in value]
    return value
