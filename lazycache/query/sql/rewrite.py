"""Rewriting of a parsed query so that it reads less and answers the same.

Calls on sites become functions that read only what they need (see `narrowing`). Predicates and
filters on lazy columns are put behind the cheap ones (see `predicates`).

The rewritten query must parse back to exactly the tree that was meant; otherwise, and for whatever
cannot be parsed into a tree (PIVOT), the query runs as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import duckdb

from lazycache.query.sql import predicates, trees
from lazycache.query.sql.measures import Measure, Measures
from lazycache.query.sql.narrowing import FUNCTIONS, Narrowing
from lazycache.query.sql.parameters import Values, by_name, duckdb_parameters
from lazycache.query.sql.scope import Ctes, Node, Scopes, Source

if TYPE_CHECKING:
    from lazycache.query.sql.lazy_columns import LazyColumn


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What runs instead of a query."""

    text: str
    """The query to run."""
    params: Values
    """Its parameters: those that became measures are not there."""
    measures: Sequence[Measure]
    """What it measures: to be held as long as it may run."""


class Rewriter:
    """Rewrites queries over tables with lazy columns. Holds no query; safe from several threads."""

    def __init__(
        self,
        *,
        tables: Mapping[str, Sequence[str]],
        lazy: Mapping[tuple[str, str], LazyColumn],
        measures: Measures,
    ) -> None:
        self._tables = tables
        self._lazy = lazy
        self._columns = frozenset(column for _, column in lazy)
        self._measures = measures
        own = (name.lower() for column in lazy.values() for name in column.functions)
        self._functions = frozenset((*FUNCTIONS, *own))

    def rewrite(
        self,
        query: str,
        cursor: duckdb.DuckDBPyConnection,
        *,
        params: Values = None,
        beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> Rewritten | None:
        """Return the query to run instead; None to run it as it is.

        Args:
            query: What the caller wrote.
            cursor: What parses it.
            params: Values of its parameters.
            beside: Tables of the user's own, with their columns: none of these is lazy.

        Cost: about 2 ms, and nothing is read; none if the query names no lazy column.

        Raises:
            QueryError: a vector does not fit the site that it is asked of.
        """
        lowered = query.lower()
        if not any(column in lowered for column in self._columns):
            return None
        tree = trees.parsed(query, cursor)
        if tree is None:
            return None
        narrowing = Narrowing(self._lazy, by_name(params), self._measures)
        rewriting = _Rewriting(
            scopes=Scopes({**self._tables, **beside}),
            narrowing=narrowing,
            columns=self._columns,
            functions=self._functions,
            cursor=cursor,
        )
        for statement in tree["statements"]:
            rewriting.query(statement["node"], {})
        text = trees.written(tree, cursor) if rewriting.changes else None
        if text is None:
            return None
        gone = narrowing.consumed.difference(_parameters(tree))
        return Rewritten(text, duckdb_parameters(params, without=gone), narrowing.measures)


class _Rewriting:
    """One query being rewritten, in place."""

    def __init__(
        self,
        *,
        scopes: Scopes,
        narrowing: Narrowing,
        columns: frozenset[str],
        functions: frozenset[str],
        cursor: duckdb.DuckDBPyConnection,
    ) -> None:
        self.changes = 0
        self._scopes = scopes
        self._narrowing = narrowing
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
            item["alias"] = trees.expression_text(before, self._cursor)

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
            self.changes += self._narrowing.narrow(value, sources, hidden=hidden)
            lazy = predicates.lazy_test(columns=self._columns, functions=self._functions)
            self.changes += predicates.filter_first(value, is_lazy=lazy)


def _parameters(tree: Node) -> set[str]:
    """Return the parameters that a query has."""
    found = (node for node in predicates.nodes(tree) if node.get("class") == "PARAMETER")
    return {node["identifier"] for node in found}
