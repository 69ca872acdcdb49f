"""Which table a name in a parsed query comes from, and where that table's `row` can be seen. Pure.

A query is what DuckDB's `json_serialize_sql` gives: nested dicts. A *cell* is a column of one
occurrence of a table in the query. Cells are followed through subqueries and CTEs that pass columns
on; whatever is not understood is "unknown", and then nothing is concluded from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

Node = dict[str, Any]
"""A node of the parsed query."""

ROW = "row"
"""The column that lazy columns are read by."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A column of one occurrence of a table in the query."""

    origin: int
    """Which occurrence: a self join has two."""
    table: str
    """Name of the table in lower case; with its dataset, `base.tokens`, if there are several."""
    column: str
    """Name of its column, in lower case."""


Outputs = Mapping[str, Cell | None]
"""Column names in lower case, with the cell that each passes on; None: something computed."""


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of a FROM clause."""

    alias: str
    """The name that qualifies its columns."""
    outputs: Outputs | None
    """Its columns; None: unknown."""
    dataset: str = ""
    """The dataset that qualifies the alias too, where a table of one of several has no alias."""
    merged: frozenset[str] = frozenset()
    """Columns that USING merges with others: without the alias they are those of either side."""

    @property
    def path(self) -> list[str]:
        """The names that qualify its columns, `base.tokens` or an alias."""
        return [self.dataset, self.alias] if self.dataset else [self.alias]

    def goes_by(self, names: Sequence[str]) -> bool:
        """Say whether a column with these names in lower case before its own is one of its."""
        mine = [name.lower() for name in self.path]
        return list(names) == mine[len(mine) - len(names) :] and len(names) <= len(mine)

    def row_of(self, cell: Cell) -> str | None:
        """Return the column in which the row of a cell can be seen here."""
        wanted = Cell(cell.origin, cell.table, ROW)
        for name, found in (self.outputs or {}).items():
            if found == wanted:
                return name
        return None


Ctes = Mapping[str, Outputs | None]
"""Columns of the CTEs in scope; None: unknown."""


class Scopes:
    """Finds the sources of SELECT nodes of one query."""

    def __init__(self, tables: Mapping[str, Sequence[str]]) -> None:
        self._tables = {
            table.lower(): [column.lower() for column in columns]
            for table, columns in tables.items()
        }
        self._origins = count()

    def with_ctes(self, node: Node, ctes: Ctes) -> Ctes:
        """Return the CTEs in scope inside a query node."""
        return self.inside_ctes(node, ctes)[1]

    def inside_ctes(self, node: Node, ctes: Ctes) -> tuple[list[tuple[Node, Ctes]], Ctes]:
        """Return each CTE's own query with the CTEs in scope inside it, and those in scope after.

        Inside, only the CTEs before it are there: `WITH tokens AS (FROM tokens)` asks the table.
        """
        found = dict(ctes)
        bodies: list[tuple[Node, Ctes]] = []
        for entry in node["cte_map"]["map"]:
            name, value = entry["key"].lower(), entry["value"]
            body = value["query_node"]
            before: Ctes = dict(found)
            if body["type"] == "RECURSIVE_CTE_NODE":
                before = {**found, name: None}
            bodies.append((body, before))
            found[name] = None if value["aliases"] else self.outputs(body, before)
        return bodies, found

    def sources(self, from_table: Node | None, ctes: Ctes) -> list[Source]:
        """Return what a FROM clause makes visible."""
        kind = from_table["type"] if from_table else "EMPTY"
        if from_table is None or kind == "EMPTY":
            return []
        if kind == "JOIN":
            sides = (from_table["left"], from_table["right"])
            joined = [source for side in sides for source in self.sources(side, ctes)]
            return _merged(from_table, joined)
        alias = from_table.get("alias") or from_table.get("table_name", "")
        dataset = "" if from_table.get("alias") else from_table.get("schema_name", "")
        outputs = None
        if not from_table.get("column_name_alias"):  # tokens AS t(a, b) renames columns
            if kind == "BASE_TABLE":
                outputs = self._of_table(from_table, ctes)
            elif kind == "SUBQUERY":
                outputs = self.outputs(from_table["subquery"]["node"], ctes)
        return [Source(alias, outputs, dataset if outputs is not None else "")]

    def outputs(self, node: Node, ctes: Ctes) -> Outputs | None:
        """Return the columns of a query node; None if they cannot be told."""
        if node["type"] != "SELECT_NODE" or len(node["group_sets"]) > 1:
            return None  # a column that a grouping set leaves out is NULL, whatever its row is
        sources = self.sources(node["from_table"], self.with_ctes(node, ctes))
        outputs: dict[str, Cell | None] = {}
        for item in node["select_list"]:
            passed = _passed_on(item, sources)
            if passed is None:
                return None
            for name, cell in passed.items():
                # a name that is there twice means one or the other: nothing is concluded
                outputs[name] = None if name in outputs else cell
        return outputs

    def _of_table(self, table: Node, ctes: Ctes) -> Outputs | None:
        name = table["table_name"].lower()
        if not table["schema_name"] and not table["catalog_name"] and name in ctes:
            return self._anew(ctes[name])
        dataset = table["schema_name"].lower()
        if dataset not in {"", "main"}:
            name = f"{dataset}.{name}"  # no table of a single dataset has a dot in its name
        if table["catalog_name"] or name not in self._tables:
            return None
        origin = next(self._origins)
        return {column: Cell(origin, name, column) for column in self._tables[name]}

    def _anew(self, outputs: Outputs | None) -> Outputs | None:
        """Return the columns of a CTE where it is used: each use is an occurrence of its own."""
        if outputs is None:
            return None
        origins = {cell.origin for cell in outputs.values() if cell is not None}
        fresh = {origin: next(self._origins) for origin in sorted(origins)}
        return {
            name: None if cell is None else replace(cell, origin=fresh[cell.origin])
            for name, cell in outputs.items()
        }


def _merged(join: Node, sources: Sequence[Source]) -> list[Source]:
    """Return the sources of a join, with what is merged in them."""
    natural = join["ref_type"] == "NATURAL"
    if natural and all(source.outputs is not None for source in sources):
        natural = False  # what both sides have is found twice
    if join["join_type"] == "INNER" or not (natural or join["using_columns"]):
        return list(sources)
    using = frozenset(name.lower() for name in join["using_columns"])
    return [
        replace(one, merged=one.merged | (frozenset(one.outputs or ()) if natural else using))
        for one in sources
    ]


def find(names: Sequence[str], sources: Sequence[Source]) -> tuple[Source, Cell] | None:
    """Return where a column comes from: `column`, `alias.column`, `dataset.table.column`.

    None if that is not certain.
    """
    *path, column = (name.lower() for name in names)
    matching = [
        source
        for source in sources
        if source.outputs is not None and column in source.outputs and source.goes_by(path)
    ]
    if len(matching) != 1 or (not path and column in matching[0].merged):
        return None
    cell = (matching[0].outputs or {})[column]
    return (matching[0], cell) if cell is not None else None


def is_outer(from_table: Node | None) -> bool:
    """Say whether a FROM clause joins rows that may have no partner."""
    if from_table is None or from_table["type"] != "JOIN":
        return False
    outer = from_table["join_type"] in {"LEFT", "RIGHT", "OUTER", "FULL"}
    return outer or is_outer(from_table["left"]) or is_outer(from_table["right"])


def after_grouping(node: Node, sources: Sequence[Source]) -> Sequence[Source]:
    """Return the sources whose rows stand for values in a SELECT: none, where groups part them.

    In `GROUP BY ROLLUP (row, site)` the site is NULL in the group of a row.
    """
    if len(node["group_sets"]) < 2:  # noqa: PLR2004  # one is a plain GROUP BY
        return sources
    keys = [
        find(key["column_names"], sources) if key["class"] == "COLUMN_REF" else None
        for key in node["group_expressions"]
    ]
    return sources if all(key is not None and key[1].column != ROW for key in keys) else ()


def _passed_on(item: Node, sources: Sequence[Source]) -> Outputs | None:
    """Return the columns that one entry of a select list gives; None if unknown."""
    if item["class"] == "STAR":
        return _of_star(item, sources)
    if item["class"] == "COLUMN_REF":
        found = find(item["column_names"], sources)
        name = item["alias"] or item["column_names"][-1]
        return {name.lower(): found[1] if found else None}
    return {item["alias"].lower(): None} if item["alias"] else {}


def _of_star(item: Node, sources: Sequence[Source]) -> Outputs | None:
    changes = ("exclude_list", "replace_list", "rename_list", "qualified_exclude_list")
    if item["columns"] or item["expr"] or any(item.get(change) for change in changes):
        return None
    wanted = item["relation_name"].lower()
    outputs: dict[str, Cell | None] = {}
    for source in sources:
        if wanted and source.alias.lower() != wanted:
            continue
        if source.outputs is None:
            return None
        for name, cell in source.outputs.items():
            outputs[name] = None if name in outputs else cell
    return outputs
