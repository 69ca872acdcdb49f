"""Rewriting of a parsed query so that it reads less and answers the same.

`unit(site, i)` is a macro over the whole value: right everywhere, but it reads all units. Where the
`row` behind the site can be seen, the call becomes `"unit:site"(row, i)`, which reads one unit.
Predicates and filters on lazy columns are put behind the cheap ones (see `predicates`).

The rewritten query must parse back to exactly the tree that was meant; otherwise, and for whatever
cannot be parsed into a tree (PIVOT), the query runs as it was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import duckdb

from lazycache.query.sql import predicates
from lazycache.query.sql.scope import Ctes, Node, Scopes, Source, find

if TYPE_CHECKING:
    from lazycache.query.sql.lazy_columns import LazyColumn

UNIT = "unit"
"""The SQL function that is rewritten."""

_EMPTY_FROM: Node = {"type": "EMPTY", "alias": "", "sample": None}


class Rewriter:
    """Rewrites queries over tables with lazy columns. Holds no query; safe from several threads."""

    def __init__(
        self,
        *,
        tables: Mapping[str, Sequence[str]],
        lazy: Mapping[tuple[str, str], LazyColumn],
    ) -> None:
        self._tables = tables
        self._lazy = lazy
        self._columns = frozenset(column for _, column in lazy)
        functions = [UNIT]
        for column in lazy.values():
            functions += [column.value_function.lower(), column.unit_function.lower()]
        self._functions = frozenset(functions)

    def rewrite(self, query: str, cursor: duckdb.DuckDBPyConnection) -> str | None:
        """Return the query to run instead; None to run it as it is.

        Cost: about 2 ms, and nothing is read; none if the query names no lazy column.
        """
        lowered = query.lower()
        if not any(column in lowered for column in self._columns):
            return None
        tree = _parse(query, cursor)
        if tree is None:
            return None
        rewriting = _Rewriting(
            scopes=Scopes(self._tables),
            lazy=self._lazy,
            columns=self._columns,
            functions=self._functions,
            cursor=cursor,
        )
        for statement in tree["statements"]:
            rewriting.query(statement["node"], {})
        if not rewriting.changes:
            return None
        return _written(tree, cursor)


class _Rewriting:
    """One query being rewritten, in place."""

    def __init__(
        self,
        *,
        scopes: Scopes,
        lazy: Mapping[tuple[str, str], LazyColumn],
        columns: frozenset[str],
        functions: frozenset[str],
        cursor: duckdb.DuckDBPyConnection,
    ) -> None:
        self.changes = 0
        self._scopes = scopes
        self._lazy = lazy
        self._columns = columns
        self._functions = functions
        self._cursor = cursor

    def query(self, node: Node, ctes: Ctes) -> None:
        """Rewrite a query node: a SELECT, or set operations over several."""
        inner = self._scopes.with_ctes(node, ctes)
        for entry in node["cte_map"]["map"]:
            self.query(entry["value"]["query_node"], inner)
        if node["type"] == "SELECT_NODE":
            self._select(node, inner)
            return
        for child in (node.get("left"), node.get("right"), *node.get("children", ())):
            if child:
                self.query(child, inner)

    def _select(self, node: Node, ctes: Ctes) -> None:
        sources = self._scopes.sources(node["from_table"], ctes)
        self._from(node["from_table"], sources, ctes)
        aliases = self._aliases(node)
        for item in node["select_list"]:
            self._item(item, sources, ctes)
        for key, value in node.items():
            if key not in {"from_table", "cte_map", "select_list"}:
                self._expressions(value, sources, ctes, hidden=aliases)
        where = node.get("where_clause")
        if where:
            lazy = predicates.lazy_test(
                columns=self._columns | self._lazy_aliases(node), functions=self._functions
            )
            ordered = predicates.cheap_first(where, is_lazy=lazy)
            self.changes += ordered is not where
            node["where_clause"] = ordered

    def _aliases(self, node: Node) -> frozenset[str]:
        """Names that a select list gives to other things: ORDER BY means these, not columns."""
        return frozenset(
            item["alias"].lower()
            for item in node["select_list"]
            if item["alias"] and item.get("column_names", [""])[-1] != item["alias"]
        )

    def _lazy_aliases(self, node: Node) -> frozenset[str]:
        """Names of lazy expressions of the select list, which WHERE may use."""
        lazy = predicates.lazy_test(columns=self._columns, functions=self._functions)
        items = [item for item in node["select_list"] if item["alias"] and lazy(item)]
        return frozenset(item["alias"].lower() for item in items)

    def _item(self, item: Node, sources: Sequence[Source], ctes: Ctes) -> None:
        """Rewrite an entry of a select list; the column keeps the name it would have had."""
        before, changes = deepcopy(item), self.changes
        self._expressions(item, sources, ctes, hidden=frozenset())
        if self.changes > changes and not item["alias"] and item["class"] != "STAR":
            item["alias"] = self._name(before)

    def _name(self, item: Node) -> str:
        """Return what DuckDB calls a column without alias: its expression."""
        node: Node = {
            "type": "SELECT_NODE",
            "modifiers": [],
            "cte_map": {"map": []},
            "select_list": [item],
            "from_table": _EMPTY_FROM,
            "where_clause": None,
            "group_expressions": [],
            "group_sets": [],
            "aggregate_handling": "STANDARD_HANDLING",
            "having": None,
            "sample": None,
            "qualify": None,
        }
        statement = {"node": node, "named_param_map": []}
        return _text({"error": False, "statements": [statement]}, self._cursor)[len("SELECT ") :]

    def _from(self, table: Node | None, sources: Sequence[Source], ctes: Ctes) -> None:
        """Rewrite subqueries and join conditions of a FROM clause."""
        if table is None:
            return
        if table["type"] == "JOIN":
            self._from(table["left"], sources, ctes)
            self._from(table["right"], sources, ctes)
            self._expressions(table["condition"], sources, ctes, hidden=frozenset())
        elif table["type"] == "SUBQUERY":
            self.query(table["subquery"]["node"], ctes)

    def _expressions(
        self, value: Any, sources: Sequence[Source], ctes: Ctes, *, hidden: frozenset[str]
    ) -> None:
        """Rewrite everything below a part of a SELECT, innermost first."""
        if isinstance(value, list):
            for child in value:
                self._expressions(child, sources, ctes, hidden=hidden)
        if not isinstance(value, dict) or value.get("class") == "LAMBDA":
            return  # names inside a lambda may be its own parameters
        if value.get("class") == "SUBQUERY":
            self.query(value["subquery"]["node"], ctes)
            self._expressions(value["child"], sources, ctes, hidden=hidden)
            return
        for child in value.values():
            self._expressions(child, sources, ctes, hidden=hidden)
        if value.get("class") == "FUNCTION":
            self._narrow(value, sources, hidden=hidden)
            lazy = predicates.lazy_test(columns=self._columns, functions=self._functions)
            self.changes += predicates.filter_first(value, is_lazy=lazy)

    def _narrow(self, call: Node, sources: Sequence[Source], *, hidden: frozenset[str]) -> None:
        """Turn `unit(site, ...)` into the function that reads one unit, if its row is seen."""
        found = _unit_of(call, sources, hidden=hidden)
        if found is None:
            return
        source, cell = found
        column = self._lazy.get((cell.table, cell.column))
        row = source.row_of(cell)
        if column is None or row is None or len(call["arguments"]) != 1 + len(column.spec.shape):
            return
        if not source.alias or not column.spec.shape:
            return
        call["function_name"] = column.unit_function
        call["qualified_name"] = {"path": [column.unit_function]}
        call["arguments"][0]["expression"]["column_names"] = [source.alias, row]
        self.changes += 1


def _unit_of(call: Node, sources: Sequence[Source], *, hidden: frozenset[str]) -> Any:
    """Return the source and cell of a plain call of `unit` on a column."""
    arguments = call["arguments"]
    plain = not (call["schema"] or call["catalog"] or call["distinct"] or call["filter"])
    if call["function_name"].lower() != UNIT or not plain or not arguments:
        return None
    site = arguments[0]["expression"]
    if any(argument["name"] for argument in arguments) or site["class"] != "COLUMN_REF":
        return None
    names = site["column_names"]
    if len(names) == 1 and names[0].lower() in hidden:
        return None
    return find(names, sources)


def _parse(query: str, cursor: duckdb.DuckDBPyConnection) -> Node | None:
    try:
        tree: Node = json.loads(_answer("SELECT json_serialize_sql(?)", query, cursor))
    except duckdb.Error:  # the query itself will say what is wrong with it
        return None
    return None if tree["error"] else tree


def _text(tree: Node, cursor: duckdb.DuckDBPyConnection) -> str:
    return _answer("SELECT json_deserialize_sql(?::JSON)", json.dumps(tree), cursor)


def _answer(query: str, parameter: str, cursor: duckdb.DuckDBPyConnection) -> str:
    # fetched to the end: a cursor with an unfinished result can run nothing else
    [(answer,)] = cursor.execute(query, [parameter]).fetchall()
    return str(answer)


def _written(tree: Node, cursor: duckdb.DuckDBPyConnection) -> str | None:
    """Return the text of a tree, if it parses back to the same tree."""
    try:
        text = _text(tree, cursor)
    except duckdb.Error:  # a node that DuckDB can read but not write
        return None
    back = _parse(text, cursor)
    return text if back is not None and _placeless(back) == _placeless(tree) else None


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
