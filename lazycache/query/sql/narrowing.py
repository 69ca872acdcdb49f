"""Calls on a site that read no more than they need: `unit`, `head`, `dot`, `norm`, `cosine`.

They are macros over whole values: right everywhere, but they read all units and hand them to
DuckDB. Where the `row` behind the site can be seen, a call becomes one of the functions of the lazy
column, by row: `unit(site, i)` is `"unit:site"(row, i)`. `dot(site, $v)` is
`"measure:site"(row, 17)`, where 17 is the number of a measure that holds the vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lazycache.codec import dtypes
from lazycache.query.sql import trees
from lazycache.query.sql.constant_vectors import Constant, constant, fitted
from lazycache.query.sql.lazy_column import LazyColumn, check_unit
from lazycache.query.sql.measures import Kind, Measure, Measures, computed_as
from lazycache.query.sql.scope import Node, Source, find

COLUMN, STAR = "COLUMN_REF", "STAR"
"""Classes of nodes."""

UNIT, HEAD = "unit", "head"
"""SQL functions of a site and indices."""

MEASURES: Mapping[str, Kind] = {"dot": "dot", "norm": "norm", "cosine": "cosine"}
"""SQL functions of a site, and but for the norm of a vector."""

FUNCTIONS = (UNIT, HEAD, *MEASURES)
"""Our SQL functions of sites."""


@dataclass(frozen=True, slots=True)
class _Read:
    """What the first argument of a call reads."""

    column: LazyColumn
    row: Node | None
    """Expression for the row; None where it cannot be seen."""
    head: Node | None = None
    """The entry of the first dimension, if it is one; None for the whole row."""


@dataclass(slots=True)
class Narrowing:
    """Makes calls of one query narrow, and keeps what they were given in place of vectors."""

    lazy: Mapping[tuple[str, str], LazyColumn]
    """Columns by table and name, in lower case."""
    params: Mapping[str, Any]
    """Values of parameters by name."""
    registry: Measures
    """Where functions find measures."""
    measures: list[Measure] = field(default_factory=list)
    """The measures of this query: they are there as long as somebody holds them."""
    consumed: set[str] = field(default_factory=set)
    """Parameters that calls had, and have no more."""

    def narrow(self, call: Node, sources: Sequence[Source], *, hidden: frozenset[str]) -> bool:
        """Make a call of ours narrow, in place; say whether it was possible.

        Raises:
            QueryError: a vector does not fit the site, or there is no such head.
        """
        name, arguments = call["function_name"].lower(), call["arguments"]
        plain = not (call["schema"] or call["catalog"] or call["distinct"] or call["filter"])
        named = any(argument["name"] for argument in arguments)
        if name not in FUNCTIONS or not plain or named or not arguments:
            return False
        read = self._read(arguments[0]["expression"], sources, hidden=hidden)
        if read is None:
            return False
        rest = [argument["expression"] for argument in arguments[1:]]
        if name in MEASURES:
            return self._measure(call, MEASURES[name], read, rest)
        return self._part(call, name, read, rest)

    def _read(
        self, value: Node, sources: Sequence[Source], *, hidden: frozenset[str]
    ) -> _Read | None:
        """Return what an argument reads: a site, or a head of it that is narrow already."""
        if value["class"] == "FUNCTION":
            column = self._by_head_function().get(value["function_name"])
            if column is None or len(value["arguments"]) != 2:  # noqa: PLR2004  # row and head
                return None
            row, head = (argument["expression"] for argument in value["arguments"])
            return _Read(column, row, head)
        if value["class"] != COLUMN:
            return None
        names = value["column_names"]
        if len(names) == 1 and names[0].lower() in hidden:
            return None
        found = find(names, sources)
        column = None if found is None else self.lazy.get((found[1].table, found[1].column))
        if found is None or column is None:
            return None
        source, cell = found
        row = source.row_of(cell)
        path = source.path if source.alias else []
        # a subquery without a name is there alone, and its row must not be hidden
        seen = row is not None and (path or (len(sources) == 1 and row not in hidden))
        return _Read(column, {**value, "column_names": [*path, row]} if seen else None)

    def by_row(self, value: Node, sources: Sequence[Source], *, hidden: frozenset[str]) -> bool:
        """Make a bare column a function of its row, in place; say whether it was possible.

        DuckDB evaluates functions of a select list after WHERE; a column of a view before the
        conditions that could fail.
        """
        read = self._read(value, sources, hidden=hidden) if value["class"] == COLUMN else None
        if read is None or read.row is None:
            return False
        function = trees.call(read.column.value_function, [{**read.row, "alias": ""}])
        value.pop("column_names")
        value.update({**function, "alias": value["alias"]})
        return True

    def star_by_row(self, item: Node, sources: Sequence[Source]) -> bool:
        """Make the lazy columns of `*` functions of their rows, in place; say if there are any.

        Of one table under its own names: what `*` means of several is not told.
        """
        changed = ("replace_list", "qualified_exclude_list", "rename_list", "columns", "expr")
        if len(sources) != 1 or any(item[part] for part in changed):
            return False
        left_out = {name.lower() for name in item["exclude_list"]}
        replaced = []
        for name, cell in (sources[0].outputs or {}).items():
            column = None if cell is None else self.lazy.get((cell.table, cell.column))
            row = None if cell is None else sources[0].row_of(cell)
            if column is None or row is None or name in left_out or name != column.name.lower():
                continue
            value = trees.call(column.value_function, [trees.column(*sources[0].path, row)])
            replaced.append({"key": column.name, "value": value})
        item["replace_list"] = replaced
        return bool(replaced)

    def _by_head_function(self) -> dict[str, LazyColumn]:
        return {one.head_function: one for one in self.lazy.values() if one.has_heads}

    def _part(self, call: Node, name: str, read: _Read, rest: list[Node]) -> bool:
        """Narrow `unit` and `head`; a `unit` of a head is one of the site."""
        indices = rest if read.head is None else [read.head, *rest]
        column = read.column
        wanted = len(column.spec.shape) if name == UNIT else 1
        if read.row is None or not column.spec.shape or len(indices) != wanted:
            return False
        if name == HEAD and not column.has_heads:
            return False
        _replace(
            call, column.unit_function if name == UNIT else column.head_function, read.row, indices
        )
        return True

    def _measure(self, call: Node, kind: Kind, read: _Read, rest: list[Node]) -> bool:
        """Narrow `dot`, `norm` and `cosine` with a vector that the query says once."""
        column = read.column
        if not column.is_measured or len(rest) != (kind != "norm"):
            return False
        head = None if read.head is None else constant(read.head, self.params)
        place = None if head is None else head.whole_number()
        if read.head is not None and place is None:
            return False
        if place is not None:
            (place,) = check_unit(column.spec, (place,), called=HEAD)
        given = constant(rest[0], self.params) if rest else None
        measure = _measure(kind, column, given, place)
        if measure is None or read.row is None:
            return False
        self._hold(measure, head, given)
        _replace(
            call, column.measure_function, read.row, [trees.number(self.registry.add(measure))]
        )
        return True

    def _hold(self, measure: Measure, *given: Constant | None) -> None:
        self.measures.append(measure)
        self.consumed |= {one.parameter for one in given if one is not None and one.parameter}


def _measure(
    kind: Kind, column: LazyColumn, given: Constant | None, head: int | None
) -> Measure | None:
    """Return what is asked of a column; None where the vector is not known yet."""
    if kind == "norm":
        return Measure(kind, head=head)
    vector = None if given is None else given.vector()
    if given is None or vector is None:
        return None
    spec = column.spec
    shape = spec.shape if head is None else spec.shape[1:]
    site = spec.name if head is None else f"head({spec.name}, {head})"
    what = f"a row of {spec.name}" if head is None else f"a head of {spec.name}"
    flat = fitted(vector, shape, asked=f"{kind}({site}, {given.said})", what=what)
    return Measure(kind, flat.to(computed_as(dtypes.by_name(spec.dtype).torch)), head)


def _replace(call: Node, function: str, row: Node, indices: Sequence[Node]) -> None:
    call["function_name"] = function
    call["qualified_name"] = {"path": [function]}
    call["arguments"] = [{"name": "", "expression": one} for one in (row, *indices)]
