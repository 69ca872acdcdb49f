"""Which rows a query would read, as far as its text says: filters by values pass all. Pure.

A predicate on a site depends on values that nobody has read. In a query that is only counted it is
evaluated, and true of every row: what is read is then no less than what the query reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum

from lazycache.query.sql.predicates import both, case, nodes, parted
from lazycache.query.sql.scope import Node


class Kind(StrEnum):
    """How what is told beforehand relates to what is read."""

    EXACT = "exact"
    """It is that."""
    AT_MOST = "at most"
    """It is that, or less."""
    ABOUT = "about"
    """It may be less or more: values decide in a way that is not foreseen."""

    def __or__(self, other: str) -> Kind:
        """Return the less certain of two."""
        order = list(Kind)
        return max(self, Kind(other), key=order.index)


BRANCHES = frozenset({"if", "nullif", "ifnull"})
"""Functions that are a CASE by another name."""


@dataclass(slots=True)
class Foresight:
    """What was found in a query."""

    kind: Kind = Kind.EXACT
    """How certain the counts of the changed query are."""
    cheap: list[Node] = field(default_factory=list)
    """Predicates of WHERE that the index answers."""
    lazy: list[Node] = field(default_factory=list)
    """Predicates of WHERE that read a site; evaluated where the cheap ones are true."""


def foreseen(tree: Node, *, is_lazy: Callable[[Node], bool]) -> Foresight:
    """Let every row pass the predicates that read a site, in place.

    Args:
        tree: The query, as DuckDB parses it.
        is_lazy: Whether an expression reads a site.
    """
    found, alone = Foresight(), _is_alone(tree, is_lazy)
    for node in [one for one in nodes(tree) if one.get("type") == "SELECT_NODE"]:
        _where(node, found, is_lazy)
        if _depends(node, is_lazy):
            found.kind |= Kind.ABOUT
    if found.lazy:
        _unlimited(tree)
    if alone and found.kind == Kind.AT_MOST:
        found.kind = Kind.EXACT
    return found


def _is_alone(tree: Node, is_lazy: Callable[[Node], bool]) -> bool:
    """Whether values are looked at in one place, of all rows: then no other read follows them."""
    parts = list(nodes(tree))
    places = [one for one in parts if one.get("class") == "COLUMN_REF" and is_lazy(one)]
    limited = any(one.get("type") == "LIMIT_MODIFIER" for one in parts)
    return len(places) == 1 and not limited


def _where(node: Node, found: Foresight, is_lazy: Callable[[Node], bool]) -> None:
    if not node.get("where_clause"):
        return
    cheap, lazy = parted(node["where_clause"], is_lazy=is_lazy)
    found.cheap += deepcopy(cheap)
    if not lazy:
        return
    found.lazy += deepcopy(lazy)
    # DuckDB compares the rows of two tables before it joins them, or after: as it likes
    joined = node["from_table"]["type"] == "JOIN"
    odd = joined or any(map(_branches, nodes(lazy)))
    found.kind |= Kind.ABOUT if odd else Kind.AT_MOST
    passed = [case(when=_is_null(part), then=_TRUE, otherwise=_TRUE) for part in lazy]
    node["where_clause"] = both([*cheap, *passed])


def _branches(node: Node) -> bool:
    """Whether values decide in an expression which other part of it is evaluated."""
    function = node.get("function_name", "").lower() if node.get("class") == "FUNCTION" else ""
    return node.get("class") in {"SUBQUERY", "CASE"} or function in BRANCHES


def _unlimited(tree: Node) -> None:
    """Drop LIMIT where rows come in no order: the query would end as soon as enough rows pass."""
    for node in nodes(tree):
        kinds = [one["type"] for one in node.get("modifiers", ())]
        if "ORDER_MODIFIER" not in kinds and "LIMIT_MODIFIER" in kinds:
            node["modifiers"] = [m for m in node["modifiers"] if m["type"] != "LIMIT_MODIFIER"]


def _is_null(expression: Node) -> Node:
    return {"class": "OPERATOR", "type": "OPERATOR_IS_NULL", "alias": "", "children": [expression]}


_TRUE: Node = {
    "class": "CONSTANT",
    "type": "VALUE_CONSTANT",
    "alias": "",
    "literal": {"kind": "BOOLEAN", "text": "true"},
}


def _depends(node: Node, is_lazy: Callable[[Node], bool]) -> bool:
    """Whether values decide what is read beside WHERE: which rows come first, or which branch."""
    kinds = {one["type"] for one in node["modifiers"]}
    first = [one for one in node["modifiers"] if one["type"] == "ORDER_MODIFIER" and is_lazy(one)]
    if first and "LIMIT_MODIFIER" in kinds:
        return True
    if any(node.get(part) and is_lazy(node[part]) for part in ("having", "qualify")):
        return True
    return any(is_lazy(condition) for condition in _conditions(node))


def _conditions(node: Node) -> Iterator[Node]:
    """Yield the conditions of joins, CASE and FILTER below a SELECT, beside its WHERE."""
    rest = [value for key, value in node.items() if key != "where_clause"]
    for one in nodes(rest):
        if one.get("type") == "JOIN" and one.get("condition"):
            yield one["condition"]
        if one.get("class") == "CASE":
            yield from (check["when_expr"] for check in one["case_checks"])
        if one.get("class") == "FUNCTION" and one.get("filter"):
            yield one["filter"]
        if one.get("class") == "FUNCTION" and _branches(one):
            yield one
