"""Which table a name in a parsed query comes from, and where that table's `row` can be seen. Pure.

A query is what DuckDB's `json_serialize_sql` gives: nested dicts. A *cell* is a column of one
occurrence of a table in the query. Cells are followed through subqueries and CTEs that pass columns
on; whatever is not understood is "unknown", and then nothing is concluded from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        found: dict[str, Outputs | None] = dict(ctes)
        for entry in node["cte_map"]["map"]:
            value = entry["value"]
            inner = None if value["aliases"] else self.outputs(value["query_node"], found)
            found[entry["key"].lower()] = inner
        return found

    def sources(self, from_table: Node | None, ctes: Ctes) -> list[Source]:
        """Return what a FROM clause makes visible."""
        kind = from_table["type"] if from_table else "EMPTY"
        if from_table is None or kind == "EMPTY":
            return []
        if kind == "JOIN":
            sides = (from_table["left"], from_table["right"])
            return [source for side in sides for source in self.sources(side, ctes)]
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
        if node["type"] != "SELECT_NODE":
            return None
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
            return ctes[name]
        dataset = table["schema_name"].lower()
        if dataset not in {"", "main"}:
            name = f"{dataset}.{name}"  # no table of a single dataset has a dot in its name
        if table["catalog_name"] or name not in self._tables:
            return None
        origin = next(self._origins)
        return {column: Cell(origin, name, column) for column in self._tables[name]}


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
    if len(matching) != 1:
        return None
    cell = (matching[0].outputs or {})[column]
    return (matching[0], cell) if cell is not None else None


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
