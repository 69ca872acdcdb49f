"""Rewriting of a parsed query so that it reads less and answers the same.

Calls on sites become functions that read only what they need, and so do bare sites beside a WHERE
(see `narrowing`). Predicates and filters on lazy columns are put behind the cheap ones (see
`predicates`), and lazy expressions get the rows that these leave all at once (see `collecting`).

The rewritten query must parse back to exactly the tree that was meant; otherwise, and for whatever
cannot be parsed into a tree (PIVOT), the query runs as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import duckdb

from lazycache.query.sql import predicates, trees
from lazycache.query.sql.collecting import collect
from lazycache.query.sql.measures import Measure, Measures
from lazycache.query.sql.narrowing import COLUMN, FUNCTIONS, STAR, Narrowing
from lazycache.query.sql.parameters import Values, by_name, duckdb_parameters
from lazycache.query.sql.scope import Ctes, Node, Scopes, Source, after_grouping, is_outer

if TYPE_CHECKING:
    from lazycache.query.sql.lazy_column import LazyColumn

ALL = re.compile(r"(?<!\()\*|^\s*from\b|\(\s*from\b")
"""In a query that may ask for all columns; not of `count(*)`."""


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

    def _is_likely(self, lowered: str) -> bool:
        """Whether a query may read a site: parsing it takes longer than this."""
        if "where" in lowered and ALL.search(lowered):
            return bool(self._columns)
        return any(column in lowered for column in self._columns)

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

        Cost: about 2 ms, and nothing is read; none if the query names no lazy column and
        does not ask for all.

        Raises:
            QueryError: a vector does not fit the site that it is asked of.
        """
        if not self._is_likely(query.lower()):
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


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where an expression of a SELECT stands."""

    sources: Sequence[Source]
    """What the FROM clause makes visible."""
    ctes: Ctes
    """The CTEs in scope."""
    hidden: frozenset[str] = frozenset()
    """Names that mean something else here."""
    filtered: bool = False
    """Whether there is a WHERE, which is to come before sites are read; or an outer join: DuckDB
    2.0 fails on arrays that have no partner in it, of rows it does not."""


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
        self._inside = 0  # expressions, whose subqueries may be about rows from outside

    def query(self, node: Node, ctes: Ctes) -> None:
        """Rewrite a query node: a SELECT, or set operations over several."""
        bodies, inner = self._scopes.inside_ctes(node, ctes)
        for body, before in bodies:
            self.query(body, before)
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
        seen = after_grouping(node, sources)
        later = bool(node["where_clause"]) or is_outer(node["from_table"])
        scope = _Scope(seen, ctes, filtered=later)
        for item in node["select_list"]:
            self._item(item, scope)
        for key, value in node.items():
            if key not in {"from_table", "cte_map", "select_list"}:
                self._expressions(value, replace(scope, hidden=aliases))
        if node["where_clause"]:
            self._where(node, scope)

    def _where(self, node: Node, scope: _Scope) -> None:
        """Let lazy expressions see what the cheap predicates leave, and all of it at once."""
        lazy = predicates.lazy_test(
            columns=self._columns | self._lazy_aliases(node), functions=self._functions
        )
        if not self._inside:
            self.changes += collect(node, scope.sources, scope.ctes, is_lazy=lazy)
        where = node["where_clause"]
        if where:
            node["where_clause"] = predicates.cheap_first(where, is_lazy=lazy)
            self.changes += node["where_clause"] is not where

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

    def _item(self, item: Node, scope: _Scope) -> None:
        """Rewrite an entry of a select list; the column keeps the name it would have had."""
        before, changes = deepcopy(item), self.changes
        self._expressions(item, scope)
        if item["class"] == STAR:
            if scope.filtered:
                self.changes += self._narrowing.star_by_row(item, scope.sources)
        elif self.changes > changes and not item["alias"]:
            bare = before["class"] == COLUMN
            text = trees.expression_text
            item["alias"] = before["column_names"][-1] if bare else text(before, self._cursor)

    def _from(self, table: Node | None, sources: Sequence[Source], ctes: Ctes) -> None:
        """Rewrite subqueries and join conditions of a FROM clause."""
        if table is None:
            return
        if table["type"] == "JOIN":
            self._from(table["left"], sources, ctes)
            self._from(table["right"], sources, ctes)
            self._expressions(table["condition"], _Scope(sources, ctes))
        elif table["type"] == "SUBQUERY":
            self.query(table["subquery"]["node"], ctes)

    def _expressions(self, value: Any, scope: _Scope) -> None:
        """Rewrite everything below a part of a SELECT, innermost first."""
        if isinstance(value, list):
            for child in value:
                self._expressions(child, scope)
        if not isinstance(value, dict) or value.get("class") == "LAMBDA":
            return  # names inside a lambda may be its own parameters
        if value.get("class") == "SUBQUERY":
            self._subquery(value, scope)
        elif value.get("class") == "FUNCTION":
            self._call(value, scope)
        else:
            if value.get("class") == COLUMN and scope.filtered:
                self.changes += self._narrowing.by_row(value, scope.sources, hidden=scope.hidden)
                return
            for child in value.values():
                self._expressions(child, scope)

    def _subquery(self, value: Node, scope: _Scope) -> None:
        self._inside += 1
        self.query(value["subquery"]["node"], scope.ctes)
        self._inside -= 1
        self._expressions(value["child"], scope)

    def _call(self, value: Node, scope: _Scope) -> None:
        """Rewrite a call; one of ours takes its site as it is written."""
        arguments = value["arguments"]
        first = arguments[:1] if value["function_name"].lower() in FUNCTIONS else []
        bare = [one for one in first if one["expression"]["class"] == COLUMN]
        for key, child in value.items():
            rest = arguments[len(bare) :] if key == "arguments" else child
            self._expressions(rest, scope)
        narrow = self._narrowing.narrow(value, scope.sources, hidden=scope.hidden)
        self.changes += narrow
        if not narrow:
            self._expressions(bare, scope)
        lazy = predicates.lazy_test(columns=self._columns, functions=self._functions)
        self.changes += predicates.filter_first(value, is_lazy=lazy)


def _parameters(tree: Node) -> set[str]:
    """Return the parameters that a query has."""
    found = (node for node in predicates.nodes(tree) if node.get("class") == "PARAMETER")
    return {node["identifier"] for node in found}
